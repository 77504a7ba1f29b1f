#!/bin/bash
# A split service with KV on disk, under load and faults, token by token; see soak.py --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
exec python3 -B bench/soak/soak.py "$@"
