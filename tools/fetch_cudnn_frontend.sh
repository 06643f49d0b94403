#!/usr/bin/env bash
# Unpacks the pinned headers of cuDNN's frontend (Apache-2.0 and MIT; 12 MB from PyPI) into the cache folder, where
# CMake looks for them, and prints their folder. Does nothing more where they were unpacked before. Needs python3 with
# venv.
set -euo pipefail

root=${SHADOWKV_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/shadowkv}/cudnn-frontend-1.32.0
if [[ -e $root/complete ]]; then
  echo "$root/include"
  exit
fi

rm -rf "$root"
mkdir -p "$root"
echo "fetching the headers of cuDNN's frontend to $root" >&2
python3 -m venv "$root/venv"
echo "nvidia-cudnn-frontend==1.32.0 \
--hash=sha256:c6006556017a4d1c914c52a556c71b1267f2d6a0500f742e7b4edef539878df0" >"$root/requirements.txt"
# One wheel serves any Python: only its headers are used.
"$root/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
  --python-version 311 --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
  --requirement "$root/requirements.txt" --dest "$root" >&2
"$root/venv/bin/python" - "$root" <<'TEXT'
import pathlib, sys, zipfile
root = pathlib.Path(sys.argv[1])
with zipfile.ZipFile(next(root.glob("*.whl"))) as wheel:
    wheel.extractall(root, [name for name in wheel.namelist() if name.startswith("include/")])
TEXT
rm -rf "$root/venv" "$root"/*.whl
touch "$root/complete"
echo "$root/include"
