#!/bin/bash
# The prefix index beside Dynamo's and SMG's on the same events; see bench_index.py --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
tools/llama.sh >/dev/null
cmake --preset release --log-level=WARNING -DPENSTOCK_BENCH=ON >/dev/null
cmake --build build --target index_rows >/dev/null
exec python3 -B bench/index/bench_index.py "$@"
