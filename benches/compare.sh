#!/usr/bin/env bash
# Runs the same work in this engine and in torch + transformers + peft, interleaved, and compares.
#
#   benches/compare.sh --base MODEL.gguf [--rounds N] [--threads N] [--workload NAME]... [--summary]
#
# The Python side lives in a private environment in the user's cache folder; versions are pinned in
# requirements.txt. --setup stops after making the environment, the model directory and the adapter.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
base=
setup_only=
arguments=()
while [ $# -gt 0 ]; do
  case $1 in
    --base) base=${2:?--base needs a file}; shift 2 ;;
    --setup) setup_only=yes; shift ;;
    -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) arguments+=("$1"); shift ;;
  esac
done
[ -n "$base" ] || { echo "compare.sh: expected --base FILE.gguf" >&2; exit 2; }
[ -f "$base" ] || { echo "compare.sh: expected a GGUF file, found nothing at $base" >&2; exit 2; }

cache=${XDG_CACHE_HOME:-$HOME/.cache}/triggerfish-bench
pins=$(sha256sum "$here/requirements.txt" | cut -c1-12)
venv=$cache/venv-$pins
if [ ! -e "$venv/complete" ]; then
  echo "making $venv (torch is some GB)" >&2
  rm -rf "$venv"
  "${PYTHON:-python3}" -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt" >&2
  touch "$venv/complete"
fi

recipe=$(cat "$here/requirements.txt" "$here/convert.py" | sha256sum | cut -c1-12)
work=$cache/$(basename "$base" .gguf)-$(sha256sum "$base" | cut -c1-12)-$recipe
if [ ! -e "$work/complete" ]; then
  echo "converting $base into $work" >&2
  rm -rf "$work"
  "$venv/bin/python" "$here/convert.py" "$base" "$work" >&2
  touch "$work/complete"
fi
[ -z "$setup_only" ] || { echo "$work"; exit 0; }

# Of cargo's messages, the one on the bench names its executable.
engine=$(cd "$here/.." && cargo bench --bench engine --no-run --message-format=json |
  "$venv/bin/python" -c 'import json, sys
built = [m for m in map(json.loads, sys.stdin) if m.get("executable")]
print(next(m["executable"] for m in built if m["target"]["name"] == "engine"))')

exec "$venv/bin/python" "$here/compare.py" --engine "$engine" \
  --base "$work/base" --adapter "$work/adapter" "${arguments[@]}"
