#!/bin/bash
# Builds llama.cpp once from a pinned source and caches the result outside the tree.
#
#   tools/llama.sh               build if needed; prints the folder (include/, lib/)
#   tools/llama.sh --server      the same, and stock llama-server in its bin/ (to compare with)
#   tools/llama.sh --print-dir   only print the folder
#
# PENSTOCK_LLAMA_DIR         use this already built folder instead
# PENSTOCK_LLAMA_SOURCE_DIR  build from this llama.cpp tree instead of the pinned one
# PENSTOCK_CACHE             where caches live (default: ~/.cache/penstock)
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$here/lib.sh"

# llama.cpp 0.5.0, as it ships inside this source distribution under vendor/llama.cpp.
package=llama-cpp-python
version=0.3.36
sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e

options=(
  -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DCMAKE_POSITION_INDEPENDENT_CODE=ON
  -DGGML_OPENMP=OFF        # ggml's own thread pool: no second runtime spinning beside our loops
  -DGGML_CCACHE=ON
  -DLLAMA_OPENSSL=OFF -DLLAMA_SUBPROCESS=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF
  -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF
  -DLLAMA_ALL_WARNINGS=OFF
  # No AMX: before version 14, GCC's _tile_loadconfig does not tell the compiler what it reads, so
  # that the tiles' shapes are never stored and the first use of one is an illegal instruction.
  -DCMAKE_C_FLAGS=-U__AMX_INT8__ -DCMAKE_CXX_FLAGS=-U__AMX_INT8__
)
quicker="$here/llama_build.cmake"  # names files of the pinned source: other trees go without

cpu_and_compiler() {  # the build is tuned to this machine's instruction set
  "${CC:-cc}" --version 2>/dev/null | head -1
  grep -m1 -E '^(flags|Features)' /proc/cpuinfo || true
}

source_id() {  # changes when the source does, or how it is compiled
  if [ -z "${PENSTOCK_LLAMA_SOURCE_DIR:-}" ]; then
    printf '%s\n' "$package-$version"
    cat "$quicker"
  else
    (cd "$PENSTOCK_LLAMA_SOURCE_DIR" &&
      find . -name .git -prune -o -type f -printf '%p %s %T@\n' | sort)
  fi
}

want_server=
case "${1:-}" in
  "" | --print-dir) ;;
  --server) want_server=1 ;;
  *) die "tools/llama.sh takes --server, --print-dir or nothing, not '$1'" ;;
esac
key="$({ source_id; printf '%s\n' "${options[@]}"; cpu_and_compiler; } | sha256sum | cut -c1-12)"
cache="$(penstock_cache)"
dir="${PENSTOCK_LLAMA_DIR:-$cache/llama-$version-$key}"

# Every file that a manifest names is there and is what was built.
matches() { [ -s "$dir/$1" ] && (cd "$dir" && sha256sum --quiet --check "$1") >/dev/null 2>&1; }
intact() { matches complete && { [ -z "$want_server" ] || matches complete-server; }; }

fetch_source() {  # fills $1 with the llama.cpp tree
  local tree="$1" archive="$cache/downloads/llama_cpp_python-$version.tar.gz"
  if [ -f "$archive" ] && ! sha256_is "$archive" "$sha256"; then
    say "llama.cpp: the cached archive is damaged, fetching it again"
    rm -f "$archive"
  fi
  if [ ! -f "$archive" ]; then
    say "llama.cpp: downloading the pinned source ($package $version, 77 MB, once)"
    local to="$scratch/download"
    mkdir -p "$to" "$(dirname "$archive")"
    # pip runs code of the archive to read its metadata: it must check the hash before that.
    printf '%s==%s --hash=sha256:%s\n' "$package" "$version" "$sha256" >"$scratch/pinned.txt"
    pip_download "llama.cpp: downloading" "$scratch/log" --require-hashes --no-binary "$package" \
      --dest "$to" -r "$scratch/pinned.txt" ||
      die "could not download $package $version (see above). Offline? Copy that source archive to
       $archive
       or set PENSTOCK_LLAMA_SOURCE_DIR to a llama.cpp source tree."
    sha256_is "$to/llama_cpp_python-$version.tar.gz" "$sha256" ||
      die "$package $version does not have the pinned checksum; refusing to build it"
    mv "$to/llama_cpp_python-$version.tar.gz" "$archive"
  fi
  say "llama.cpp: unpacking"
  tar -xzf "$archive" -C "$tree" --strip-components=3 --wildcards '*/vendor/llama.cpp/*'
}

compile() {  # $scratch/source -> $scratch/build
  command -v cmake >/dev/null && command -v ninja >/dev/null ||
    die "building llama.cpp needs cmake and ninja; run tools/setup.sh"
  say "llama.cpp: configuring"
  [ -n "${PENSTOCK_LLAMA_SOURCE_DIR:-}" ] ||
    options+=("-DCMAKE_PROJECT_llama.cpp_INCLUDE=$quicker")
  cmake -S "$scratch/source" -B "$scratch/build" -G Ninja "${options[@]}" >"$scratch/log" 2>&1 ||
    { tail -n 30 "$scratch/log" >&2; die "llama.cpp did not configure (see above)"; }
  local targets=(llama-common)
  [ -z "$want_server" ] || targets+=(llama-server)
  say "llama.cpp: compiling ${targets[*]} (several minutes on two cores, once)"
  if [ -t 2 ]; then
    ninja -C "$scratch/build" "${targets[@]}" >&2 || die "llama.cpp did not build (see above)"
  else
    NINJA_STATUS='[%f/%t] ' in_background "llama.cpp" "$scratch/log" \
      ninja -C "$scratch/build" "${targets[@]}" ||
      { tail -n 40 "$scratch/log" >&2; die "llama.cpp did not build (see above)"; }
  fi
}

# A folder appears whole or not at all: its manifest is written last, into a scratch folder that
# then takes its place.
install_libraries() {
  local out="$scratch/out"
  mkdir -p "$out/include/jinja" "$out/lib"
  cp "$scratch"/source/include/*.h "$scratch"/source/ggml/include/*.h \
    "$scratch"/source/common/*.h "$out/include"
  cp "$scratch"/source/common/jinja/*.h "$out/include/jinja"
  find "$scratch/build" -name 'lib*.a' -exec cp {} "$out/lib" \;
  cp "$scratch/source/LICENSE" "$out"
  (cd "$out" && find . -type f ! -name complete -print0 | sort -z | xargs -0 sha256sum >complete)
  rm -rf "$dir"
  mv "$out" "$dir"
}

install_server() {
  mkdir -p "$dir/bin"
  cp "$scratch/build/bin/llama-server" "$dir/bin/llama-server.new"
  mv "$dir/bin/llama-server.new" "$dir/bin/llama-server"
  (cd "$dir" && sha256sum bin/llama-server >complete-server)
}

build() {
  if intact; then
    say "llama.cpp: built before, nothing to download or compile"
    return
  fi
  [ ! -e "$dir/complete" ] || matches complete ||
    say "llama.cpp: the cached build is damaged, building it again"
  find "$cache" -maxdepth 1 -name 'llama-*.tmp*' -exec rm -rf {} +  # of builds that were killed
  scratch="$dir.tmp"  # one name, so that ccache recognises the files of an interrupted build
  mkdir -p "$scratch/source"
  need_space "$scratch" 1500 "building llama.cpp"
  if [ -n "${PENSTOCK_LLAMA_SOURCE_DIR:-}" ]; then
    cp -r "$PENSTOCK_LLAMA_SOURCE_DIR/." "$scratch/source"
  else
    fetch_source "$scratch/source"
  fi
  compile
  matches complete || install_libraries
  [ -z "$want_server" ] || install_server
  say "llama.cpp: ready after $SECONDS s"
}

if [ "${1:-}" != --print-dir ]; then
  if [ -n "${PENSTOCK_LLAMA_DIR:-}" ]; then
    [ -f "$dir/lib/libllama.a" ] ||
      die "PENSTOCK_LLAMA_DIR=$dir holds no lib/libllama.a; unset it to have llama.cpp built"
    say "llama.cpp: using $dir"
  elif intact; then  # the usual case needs no lock
    say "llama.cpp: built before, nothing to download or compile"
  else
    with_lock "$cache/llama.lock" build
  fi
fi
printf '%s\n' "$dir"
