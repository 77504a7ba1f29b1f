#!/bin/bash
# KV on disk beside the disk's raw figure, recovery, and a long prompt from each tier; see
# bench_tiers.py --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
tools/llama.sh >/dev/null
PENSTOCK_DEMO_MODEL="$(tools/model.sh)"
export PENSTOCK_DEMO_MODEL
cmake --preset release --log-level=WARNING -DPENSTOCK_BENCH=ON >/dev/null
cmake --build build --target tiers_rows tiers_policy tiers_decision penstock >/dev/null
exec python3 -B bench/tiers/bench_tiers.py "$@"
