#!/bin/bash
# Installs what packages.txt names and this machine lacks. Touches nothing if all is there.
#
#   tools/setup.sh          what building needs
#   tools/setup.sh --test   also what only testing needs
#   tools/setup.sh --bench  also what only testing and benchmarks need
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$here/lib.sh"

purpose=
case "${1:-}" in
  "") ;;
  --test) purpose=test ;;
  --bench) purpose=bench ;;
  *) die "tools/setup.sh takes --test, --bench or nothing, not '$1'" ;;
esac

wanted() {  # package names, one a line
  sed -e 's/#.*//' "$here/../packages.txt" |
    awk -v purpose="$purpose" 'NF == 1 || $2 == "[" purpose "]" ||
      (purpose == "bench" && $2 == "[test]") { print $1 }'
}

installed() {  # names and what they provide, so that another vendor's nodejs with npm in it counts
  dpkg-query -W -f '${db:Status-Status} ${Package}, ${Provides}\n' |
    sed -n 's/^installed //p' | tr ',' '\n' | awk 'NF { print $1 }'
}

is_debian_12() {
  grep -qx 'ID=debian' /etc/os-release && grep -qx 'VERSION_ID="12"' /etc/os-release
} 2>/dev/null

elsewhere() {  # not Debian 12: say what is needed; go on if the tools at least are there
  local missing=() tool tools=(g++ cmake ninja python3)
  [ "$purpose" != test ] || tools+=(clang++-19 clang-tidy-19 node npm)
  for tool in "${tools[@]}"; do
    command -v "$tool" >/dev/null || missing+=("$tool")
  done
  say "packages: this is not Debian 12, so nothing is installed for you. Penstock needs what" \
    "these" \
    "Debian packages hold: $(wanted | tr '\n' ' ')"
  [ ${#missing[@]} -eq 0 ] || die "not found on this machine: ${missing[*]}"
}

install() {
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null ||
      die "installing packages needs root or sudo; as root run: apt-get install $*"
    as_root=(sudo)
    [ -t 0 ] || as_root+=(-n)
    "${as_root[@]}" true ||
      die "sudo does not let $(id -un) install packages; as root run: apt-get install $*"
  fi
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y
    -o DPkg::Lock::Timeout=300)
  say "packages: installing $# with apt-get: $*"
  if ! "${apt[@]}" install --no-install-recommends "$@" >&2; then
    say "packages: that did not work, trying once more after apt-get update"
    "${apt[@]}" update >&2 || die "apt-get update failed (see above); is a Debian mirror reachable?"
    "${apt[@]}" install --no-install-recommends "$@" >&2 ||
      die "could not install: $* (see above)"
  fi
  say "packages: $# installed after $SECONDS s"
}

if command -v dpkg-query >/dev/null; then
  missing="$(comm -23 <(wanted | sort -u) <(installed | sort -u))"
else
  missing="$(wanted)"
fi
if [ -z "$missing" ]; then
  say "packages: all $(wanted | wc -l) are installed"
elif ! is_debian_12; then
  elsewhere
else
  # shellcheck disable=SC2086 # one word a package
  install $missing
fi
