# Shared by the set-up scripts: where caches live and how they speak. Source it, do not run it.

penstock_cache() { printf '%s' "${PENSTOCK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/penstock}"; }

# Nobody may be there to read it: that stops nothing.
say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2 || :; }
[ -t 2 ] || say() { printf '==> %s\n' "$*" >&2 || :; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# What a script leaves half done when it ends, however it ends: a folder to remove and a job to
# stop.
scratch=""
job=""
clean_up() {
  if [ -n "$job" ]; then
    kill "$job" 2>/dev/null || true
    wait "$job" 2>/dev/null || true
  fi
  [ -z "$scratch" ] || rm -rf "$scratch"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# with_lock FILE COMMAND...: two makes at once must not build or download the same thing twice.
# Children inherit the lock, so that a killed script's orphans still hold it.
with_lock() {
  local lock="$1" waited=0; shift
  mkdir -p "$(dirname "$lock")" || die "cannot write to the cache folder $(dirname "$lock")"
  exec 9>"$lock"
  until flock -w 10 9; do
    waited=$((waited + 10))
    say "waiting for another set-up to finish (${waited} s; it holds $lock)"
  done
  "$@"
  exec 9>&-
}

# in_background WHAT LOG COMMAND...: runs the command with its output in LOG and says every ten
# seconds how long it has run and what its log said last. Returns the command's status.
in_background() {
  local what="$1" log="$2" started=$SECONDS ticks=0 status=0; shift 2
  "$@" >"$log" 2>&1 </dev/null &
  job=$!
  while kill -0 "$job" 2>/dev/null; do
    sleep 1
    ticks=$((ticks + 1))
    if [ $((ticks % 10)) -eq 0 ]; then
      say "$what: $((SECONDS - started)) s, $(tail -n 1 "$log" | cut -c1-80)"
    fi
  done
  wait "$job" || status=$?
  job=""
  return $status
}

# pip_download WHAT LOG ARGUMENTS...: pip shows its own progress bar on a terminal.
pip_download() {
  local what="$1" log="$2"; shift 2
  python3 -m pip --version >/dev/null 2>&1 ||
    die "$what needs python3 with pip; run tools/setup.sh (or install python3-pip)"
  local command=(python3 -m pip download --disable-pip-version-check --retries 3 --no-deps "$@")
  if [ -t 2 ]; then
    "${command[@]}" >&2
  else
    in_background "$what" "$log" "${command[@]}" || { tail -n 5 "$log" >&2; return 1; }
  fi
}

# need_space DIR MEGABYTES WHAT
need_space() {
  local free
  free="$(df --output=avail -B1M "$1" 2>/dev/null | tail -n 1)" || return 0
  [ "$free" -ge "$2" ] ||
    die "$3 needs $2 MB free in $1, and there are $free; make room or set PENSTOCK_CACHE=DIR"
}

sha256_is() { [ "$(sha256sum "$1" | cut -d' ' -f1)" = "$2" ]; }
