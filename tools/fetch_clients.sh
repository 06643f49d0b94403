#!/usr/bin/env bash
# Installs the pinned clients that the server is tested with (tools/clients.txt; from PyPI) into the cache folder and
# prints the Python that has them. Does nothing more where they were installed before. Needs python3 with venv.
set -euo pipefail

list=$(dirname "${BASH_SOURCE[0]}")/clients.txt
root=${SHADOWKV_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/shadowkv}/clients-$(sha256sum "$list" | head -c 12)
if [[ ! -e $root/complete ]]; then
  rm -rf "$root"
  mkdir -p "$root"
  echo "fetching clients to test the server with to $root" >&2
  python3 -m venv "$root/venv"
  "$root/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary :all: --requirement "$list" >&2
  touch "$root/complete"
fi
echo "$root/venv/bin/python"
