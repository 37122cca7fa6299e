#!/bin/sh
# Install PyTorch into $PYTHON's environment. Where there is no NVIDIA GPU on Linux, take a CPU build: the default one
# would bring gigabytes of CUDA packages. Tried in this order: what is installed, a "+cpu" build from the package
# indexes configured here, uv's own knowledge of where PyTorch keeps its CPU builds, then whatever pip finds.
set -eu
PYTHON=${PYTHON:-python3}
VERSION=${TORCH_VERSION:-2.13.0}

if "$PYTHON" -c 'import torch' 2>/dev/null; then exit 0; fi
if [ "$(uname -s)" != Linux ] || command -v nvidia-smi >/dev/null 2>&1; then
    exec "$PYTHON" -m pip install --quiet "torch>=2.6"
fi
echo "No NVIDIA GPU found: installing a CPU build of PyTorch."
"$PYTHON" -m pip install --quiet "torch==$VERSION+cpu" 2>/dev/null && exit 0
if "$PYTHON" -m pip install --quiet uv 2>/dev/null; then
    "$PYTHON" -m uv pip install --quiet --python "$PYTHON" --torch-backend cpu "torch>=2.6" && exit 0
fi
echo "No CPU build could be had; installing the default build, which is large."
exec "$PYTHON" -m pip install --quiet "torch>=2.6"
