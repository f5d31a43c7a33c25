#!/usr/bin/env bash
# Runs the same work in this engine and in torch + transformers + peft, nanogcg and llama.cpp, interleaved,
# and compares.
#
#   benches/compare.sh --base MODEL.gguf [--rounds N] [--threads N] [--workload NAME]... [--summary]
#
# The Python side lives in private environments in the user's cache folder; versions are pinned in
# requirements*.txt. llama.cpp is built from source, for this processor; rows of a peer that cannot be
# installed are left out, with a message. --setup stops after making the environments and the models.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
base=
setup_only=
arguments=()
while [ $# -gt 0 ]; do
  case $1 in
    --base) base=${2:?--base needs a file}; shift 2 ;;
    --setup) setup_only=yes; shift ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) arguments+=("$1"); shift ;;
  esac
done
[ -n "$base" ] || { echo "compare.sh: expected --base FILE.gguf" >&2; exit 2; }
[ -f "$base" ] || { echo "compare.sh: expected a GGUF file, found nothing at $base" >&2; exit 2; }

cache=${XDG_CACHE_HOME:-$HOME/.cache}/triggerfish-bench

# environment NAME REQUIREMENTS: makes it unless it is complete, and sets `made` to its folder; fails if pip does.
environment() {
  local pins
  pins=$(sha256sum "$here/$2" | cut -c1-12)
  made=$cache/$1-$pins
  if [ ! -e "$made/complete" ]; then
    echo "making $made ($3)" >&2
    rm -rf "$made"
    "${PYTHON:-python3}" -m venv "$made" || return
    "$made/bin/pip" install --quiet --disable-pip-version-check -r "$here/$2" >&2 || return
    touch "$made/complete"
  fi
}

environment venv requirements.txt "torch is some GB"
venv=$made
optional=()
if environment nanogcg requirements-nanogcg.txt "torch again: nanogcg needs an older transformers"; then
  optional+=(--nanogcg "$made/bin/python")
else
  echo "compare.sh: nanogcg cannot be installed; its row is left out" >&2
fi
if environment llama requirements-llama.txt "builds llama.cpp, some minutes"; then
  optional+=(--llama "$made/bin/python")
else
  echo "compare.sh: llama-cpp-python cannot be built; its rows are left out" >&2
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

# Of cargo's messages, the one on a target names its executable.
executable() {
  "$venv/bin/python" -c 'import json, sys
built = [m for m in map(json.loads, sys.stdin) if m.get("executable")]
print(next(m["executable"] for m in built if m["target"]["name"] == sys.argv[1]))' "$1"
}
cd "$here/.."
engine=$(cargo bench --bench engine --no-run --message-format=json | executable engine)
scanner=$(cargo build --release --bin triggerfish --message-format=json | executable triggerfish)

exec "$venv/bin/python" "$here/compare.py" --engine "$engine" --scanner "$scanner" \
  --models "$work" "${optional[@]}" "${arguments[@]}"
