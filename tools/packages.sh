# Which Debian 12 packages the project needs, and installing those that are missing. Sourced by ./run.

BUILD_PACKAGES=(
  ca-certificates ccache cmake g++ git libboost1.81-dev libcli11-dev libcurl4-openssl-dev libedit-dev libeigen3-dev
  libfmt-dev libgmock-dev libgtest-dev libpcre2-dev libssl-dev libutf8proc-dev ninja-build nlohmann-json3-dev python3
)
CHECK_PACKAGES=(clang-format-16 clang-tidy-16 doxygen)
FUZZ_PACKAGES=(clang-16 libclang-rt-16-dev)

fail() {
  echo "run: $*" >&2
  exit 2
}

is_installed() {
  [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

# Installs those of the named packages that are missing; touches no network when none is.
install_packages() {
  local package missing=() as_root=()
  command -v dpkg-query >/dev/null || {
    echo "run: this is not Debian; taking the build tools and libraries as they are" >&2
    return
  }
  for package in "$@"; do is_installed "$package" || missing+=("$package"); done
  ((${#missing[@]})) || return 0
  if ((EUID != 0)); then
    command -v sudo >/dev/null || fail "packages are missing and there is no sudo; as root: apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  echo "installing ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" \
    >"$(log_file apt)" || fail_with_log apt
}
