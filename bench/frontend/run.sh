#!/bin/bash
# What the front end costs, beside nginx as a dumb proxy; see bench_frontend.py --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
tools/model.sh >/dev/null
exec python3 -B bench/frontend/bench_frontend.py "$@"
