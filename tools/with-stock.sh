#!/bin/bash
# Runs a command with stock llama-server and the demo model named in its environment.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
PENSTOCK_LLAMA_SERVER="$("$here/llama.sh" --server)/bin/llama-server"
PENSTOCK_DEMO_MODEL="$("$here/model.sh")"
export PENSTOCK_LLAMA_SERVER PENSTOCK_DEMO_MODEL
exec "$@"
