#!/bin/bash
# Conversations on several real workers, policy beside policy; see bench_live.py --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
exec python3 -B bench/live/bench_live.py "$@"
