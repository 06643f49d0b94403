#!/usr/bin/env bash
# Makes a CUDA 13.0 toolkit out of pinned wheels from PyPI (about 1.0 GB to download, 1.5 GB on disk) and prints its
# root. Does nothing more where it was made before. Needs python3 with venv, and x86-64 Linux.
set -euo pipefail

root=${SHADOWKV_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/shadowkv}/cuda-13.0-cudnn-9.19
toolkit() { echo "$root"/venv/lib/python3*/site-packages/nvidia/cu13; }

if [[ -e $root/complete ]]; then
  toolkit
  exit
fi
[[ $(uname -s)-$(uname -m) == Linux-x86_64 ]] || {
  echo "fetch_cuda.sh: the pinned wheels are for x86-64 Linux; install CUDA 13 under /usr/local/cuda" >&2
  exit 2
}

rm -rf "$root"
mkdir -p "$root"
echo "fetching a CUDA toolkit to $root" >&2
python3 -m venv "$root/venv"
cat >"$root/requirements.txt" <<'TEXT'
nvidia-cuda-nvcc==13.0.88 --hash=sha256:56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03
nvidia-cuda-crt==13.0.88 --hash=sha256:2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4
nvidia-nvvm==13.0.88 --hash=sha256:c5f41ffeb6466944a026dfa5317d7d85355c119bbec279205d22f1869d1054e0
nvidia-cuda-runtime==13.0.96 --hash=sha256:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
nvidia-cuda-cccl==13.0.85 --hash=sha256:e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649
nvidia-cublas==13.1.0.3 --hash=sha256:ee8722c1f0145ab246bccb9e452153b5e0515fd094c3678df50b2a0888b8b171
nvidia-cuda-nvrtc==13.0.88 --hash=sha256:ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575
nvidia-cudnn-cu13==9.19.0.56 --hash=sha256:d20e1734305e9d68889a96e3f35094d733ff1f83932ebe462753973e53a572bf
TEXT
"$root/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
  --requirement "$root/requirements.txt" >&2

made=$(toolkit)
ln -sfn lib "$made/lib64" # nvcc links from lib64
ln -sfr "$made"/../cudnn/include/* "$made/include/"
ln -sfr "$made"/../cudnn/lib/*.so.* "$made/lib/"
for file in "$made"/lib/lib*.so.*; do
  name=${file##*/}
  ln -sfn "$name" "$made/lib/${name%%.so.*}.so" # wheels carry no libX.so
done
touch "$root/complete"
toolkit
