#!/bin/bash
# The transfer library beside memcpy, plain sockets and its peers; see bench_transfer.py --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
tools/llama.sh >/dev/null
cmake --preset release --log-level=WARNING -DPENSTOCK_BENCH=ON >/dev/null
cmake --build build --target transfer_rows >/dev/null
exec python3 -B bench/transfer/bench_transfer.py "$@"
