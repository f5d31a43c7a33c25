"""Runs a peer's command line many times after one import. For benches/audit.py, in the peer's own environment.

    audit_peer.py MODULE:FUNCTION SECONDS [MODULE…] < commands.json > results.jsonl

Every command is a process of its own, forked after the import, so each starts as fresh as from the shell but for the
seconds of importing; a command that takes longer than SECONDS is killed and has no exit code.
"""

import importlib
import json
import os
import signal
import sys
import tempfile
import time


def child(function, arguments, path):
    out = os.open(path, os.O_WRONLY)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    sys.argv = arguments
    try:
        code = function()
        code = code if isinstance(code, int) else 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        import traceback
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)


def main():
    module, function = sys.argv[1].split(":")
    limit = float(sys.argv[2])
    # What the entry point imports only when it runs.
    for name in sys.argv[3:]:
        importlib.import_module(name)
    entry = getattr(importlib.import_module(module), function)
    for arguments in json.load(sys.stdin):
        handle, path = tempfile.mkstemp()
        os.close(handle)
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            child(entry, arguments, path)
        code = None
        while time.monotonic() - started < limit:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                break
            time.sleep(0.01)
        else:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        with open(path, errors="replace") as written:
            text = written.read()
        os.unlink(path)
        print(json.dumps({"code": code, "text": text}), flush=True)


if __name__ == "__main__":
    main()
