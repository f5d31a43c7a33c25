"""Token ids that workloads.rs makes alike; of no package, since the peers live in environments of their own."""


def ids(stream: int, count: int) -> list[int]:
    state = stream * 7919 + 12345
    found = []
    for _ in range(count):
        state = (state * 1103515245 + 12345) % 2**31
        found.append(1000 + (state >> 8) % 40000)
    return found
