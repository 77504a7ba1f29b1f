#!/bin/bash
# Gates: the official OpenAI SDKs against a real running server and the demo model.
#
#   tests/sdk/run.sh               set up, then both
#   tests/sdk/run.sh python|node   one of them
#   tests/sdk/run.sh --setup       only install the pinned SDKs into the cache
#
# PENSTOCK_BIN     the server's binary (default: build/penstock)
# PENSTOCK_CACHE   where caches live (default: ~/.cache/penstock)
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
tools="$here/../../tools"
. "$tools/lib.sh"

command -v node >/dev/null && command -v npm >/dev/null ||
  die "the SDK gates need python3, node and npm; run tools/setup.sh --test"

# One folder for each set of pins and interpreter, whole or absent: a change of either makes a new
# one.
python_id="$({ python3 --version; cat "$here/python/requirements.txt"; } | sha256sum | cut -c1-12)"
node_id="$({ node --version; cat "$here/node/package-lock.json"; } | sha256sum | cut -c1-12)"
python_sdk="$(penstock_cache)/sdk-python-$python_id"
node_sdk="$(penstock_cache)/sdk-node-$node_id"

pip_install() {
  "$python_sdk/bin/python" -m pip install --disable-pip-version-check --progress-bar off -r "$1"
}
npm_install() { (cd "$1" && npm ci --ignore-scripts --no-audit --no-fund); }

install_python() {
  [ ! -e "$python_sdk/complete" ] || return 0
  say "SDK gates: installing the openai Python SDK"
  rm -rf "$python_sdk"
  python3 -m venv "$python_sdk" || die "python3 -m venv failed; run tools/setup.sh --test"
  in_background "SDK gates: pip" "$python_sdk/log" pip_install "$here/python/requirements.txt" ||
    { tail -n 20 "$python_sdk/log" >&2
      die "pip could not install tests/sdk/python/requirements.txt"; }
  touch "$python_sdk/complete"
}

install_node() {
  [ ! -e "$node_sdk/complete" ] || return 0
  say "SDK gates: installing the openai npm package"
  rm -rf "$node_sdk"
  mkdir -p "$node_sdk"
  cp "$here"/node/package.json "$here"/node/package-lock.json "$node_sdk"
  in_background "SDK gates: npm" "$node_sdk/log" npm_install "$node_sdk" ||
    { tail -n 20 "$node_sdk/log" >&2
      die "npm could not install tests/sdk/node/package-lock.json"; }
  touch "$node_sdk/complete"
}

setup() {
  if [ -e "$python_sdk/complete" ] && [ -e "$node_sdk/complete" ]; then
    say "SDK gates: the SDKs are installed, nothing to download"
    return
  fi
  with_lock "$(penstock_cache)/sdk.lock" install_python
  with_lock "$(penstock_cache)/sdk.lock" install_node
}

gate() {
  local binary="${PENSTOCK_BIN:-$here/../../build/penstock}" model
  [ -x "$binary" ] || die "no server at $binary; run make build, or set PENSTOCK_BIN"
  model="$("$tools/model.sh")"
  case "$1" in
    python)
      PENSTOCK_BIN="$binary" python3 "$here/with_servers.py" "$model" \
        "$python_sdk/bin/python" -m unittest discover -v -s "$here/python"
      ;;
    node)
      PENSTOCK_BIN="$binary" PENSTOCK_SDK_NODE="$node_sdk" \
        python3 "$here/with_servers.py" "$model" \
        node --test --test-reporter=spec "$here/node/openai.test.mjs"
      ;;
  esac
}

case "${1:-}" in
  --setup) setup ;;
  "") setup; gate python; gate node ;;
  python | node) setup; gate "$1" ;;
  *) die "tests/sdk/run.sh takes python, node, --setup or nothing, not '$1'" ;;
esac
