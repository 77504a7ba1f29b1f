#!/bin/bash
# Running streams under a long prompt, prompts apart and not; see bench_pd.py --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
exec python3 -B bench/pd/bench_pd.py "$@"
