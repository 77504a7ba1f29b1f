#!/bin/bash
# Runs every fuzz target in a folder, each from the corpus it has gathered before.
#
#   tools/fuzz.sh FOLDER SECONDS
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$here/lib.sh"
[ $# -eq 2 ] || die "usage: tools/fuzz.sh FOLDER SECONDS"
folder="$1" seconds="$2"
src="$here/../src"

shopt -s nullglob
targets=("$folder"/*_fuzz)
[ ${#targets[@]} -gt 0 ] || die "no fuzz target in $folder"
say "fuzz: ${#targets[@]} targets, $seconds s each"
for target in "${targets[@]}"; do
  name="$(basename "$target")"
  corpus="$(penstock_cache)/fuzz/$name"  # outlives the build folder
  mkdir -p "$corpus"
  arguments=(-max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -artifact_prefix="$folder/")
  dict="$(find "$src" -name "$name.dict")"
  seeds="$(find "$src" -type d -name "${name}_seeds")"
  say "fuzz: $name, corpus $corpus ($(find "$corpus" -type f | wc -l) inputs)"
  if ! "$target" "${arguments[@]}" ${dict:+-dict="$dict"} "$corpus" ${seeds:+"$seeds"}; then
    die "$name found a bug: the input is in $folder/ (crash-*, timeout-*, oom-*); run it again with
       $target $folder/crash-..."
  fi
done
say "fuzz: nothing found"
