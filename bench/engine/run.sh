#!/bin/bash
# The worker over llama.cpp beside stock llama-server; see bench_engine.py --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
exec tools/with-stock.sh python3 -B bench/engine/bench_engine.py "$@"
