#!/bin/bash
# Short runs of the simulator in which everything goes wrong, one a seed, each with its checkers
# (src/sim/internal/player_audit.cc). The tests run seeds 1 to 10,000.
#
#   bench/chaos/run.sh [SEEDS [FIRST]]     default: 40,000 seeds from 10,001 on
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [ "${1:-}" = --help ]; then sed -n '2,5s/^# \{0,1\}//p' "$0"; exit; fi
export PENSTOCK_CHAOS_SEEDS=${1:-40000} PENSTOCK_CHAOS_FIRST=${2:-10001}
cmake -B build -DPENSTOCK_TESTS=ON >/dev/null
cmake --build build --target sim_test >/dev/null
seq 0 7 | xargs -P "$(nproc)" -I{} build/sim_test --gtest_brief=1 --gtest_filter='Parts/Chaos.*/{}'
echo "$PENSTOCK_CHAOS_SEEDS seeds from $PENSTOCK_CHAOS_FIRST on: no checker spoke"
