#!/usr/bin/env bash
# Opens HTML reports in Chromium, and validates JUnit against its schema.
#
#   benches/report/run.sh [FOLDER]     # results and screenshots; a temporary folder by default
#
# Needs Node.js, npm, and on Debian root's apt-get for what is missing of chromium and xmllint.
# TRIGGERFISH names the program; else it is built.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
out=${1:-$(mktemp -d)}
mkdir -p "$out"
out=$(cd "$out" && pwd)

missing=()
command -v chromium >/dev/null || missing+=(chromium fonts-dejavu-core)
command -v xmllint >/dev/null || missing+=(libxml2-utils)
if [ ${#missing[@]} -gt 0 ]; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
# Outside of the repository: nothing that npm lays down belongs to it.
node_modules=${XDG_CACHE_HOME:-$HOME/.cache}/triggerfish-report
mkdir -p "$node_modules"
cp "$here"/package.json "$here"/package-lock.json "$here"/*.mjs "$node_modules/"
npm ci --prefix "$node_modules" --ignore-scripts --no-audit --no-fund --silent

if [ -z "${TRIGGERFISH:-}" ]; then
  cargo build --release --manifest-path "$root/Cargo.toml"
  TRIGGERFISH=${CARGO_TARGET_DIR:-$root/target}/release/triggerfish
fi

# Found something: exit code 1.
run() { "$TRIGGERFISH" "$@" --quiet -o /dev/null || [ $? -eq 1 ]; }
run scan --report "html=$out/scan.html" --report "json=$out/scan.json" --report "junit=$out/scan.xml"
run hunt --report "html=$out/hunt.html" --report "junit=$out/hunt.xml"
node "$node_modules/records.mjs" "$out/scan.json" "$out"
for name in large hostile; do
  "$TRIGGERFISH" report "$out/$name.json" --format html -o "$out/$name.html"
done
"$TRIGGERFISH" report "$out/hostile.json" --format junit -o "$out/hostile.xml"

xmllint --noout --schema "$root/crates/report/schemas/junit-10.xsd" "$out"/*.xml
node "$node_modules/browser.mjs" "$out"
echo "results and screenshots: $out"
