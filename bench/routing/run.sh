#!/bin/bash
# All routing policies on published and on the scoreboard's workloads, simulated, and what a
# decision costs; `run.sh --help` lists the scoreboard's flags.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
tools/llama.sh >/dev/null
cmake --preset release --log-level=WARNING -DPENSTOCK_BENCH=ON >/dev/null
cmake --build build --target routing_scoreboard routing_select routing_dispatch >/dev/null
build/routing_scoreboard "$@"
[[ $# -gt 0 ]] || { build/routing_select && build/routing_dispatch; }
