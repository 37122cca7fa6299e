#!/usr/bin/env bash
# The GPU part of the project in under six minutes: build, checks, timings.
#
#   benchmarks/gpu.sh [OUT]         OUT: a folder for gpu.json (default runs/gpu)
#
# To publish the figures: copy OUT/gpu.json to benchmarks/results/, then run `python -m benchmarks readme`.
#
# PYTHON      an interpreter whose PyTorch sees the GPU (default python3)
# DEVICE      cuda:0 (default), or cpu: everything in small, to try this script
# CHECKS_S    at most so many seconds for the checks (default 110)
# BUDGET_S    seconds for the timings (default: what build and checks leave of six minutes)
#
# What is missing beside PyTorch is installed into OUT/venv, which also sees the interpreter's own packages.
# gpu.json is written after every row and names what was not measured, also if the timings are ended.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
device=${DEVICE:-cuda:0}
total_s=350
checks_s=${CHECKS_S:-110}
out=${1:-runs/gpu}
mkdir -p "$out"
begun=$SECONDS

say() { printf '== %s (after %d s)\n' "$1" $((SECONDS - begun)); }

say "build"
# A wheel of the default PyTorch would be gigabytes: the interpreter's own is used.
"$python" -c 'import torch' || { echo "$python has no PyTorch; set PYTHON to one that has" >&2; exit 2; }
need='import av, cv2, hypothesis, jsonschema, psutil, pydantic, pytest, rich, safetensors, scipy, tomlkit, zmq, prometheus_client, matplotlib, jinja2, platformdirs'
if ! "$python" -c "$need" 2>/dev/null; then
    "$python" -m venv --system-site-packages "$out/venv"
    "$out/venv/bin/python" -m pip install --quiet '.[test]' || {
        echo "the packages of pyproject.toml could not be installed; install them, then run this again" >&2
        exit 2
    }
    python=$out/venv/bin/python
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
"$python" - "$device" <<'EOF'
import sys, torch
device = sys.argv[1]
if device.startswith("cuda") and not torch.cuda.is_available():
    sys.exit(f"PyTorch {torch.__version__} sees no GPU; set DEVICE=cpu to try this script in small")
print("PyTorch", torch.__version__, torch.cuda.get_device_name(device) if device.startswith("cuda") else "on the CPU")
EOF

say "checks, at most $checks_s s"
# What says something about a GPU; the other tests of the engines are about CPUs.
tests=()
for name in cuda_device cuda_engine gpu_failures gpu_threads feeding fold kernels; do tests+=("tests/engines/test_$name.py"); done
checks=0
timeout --kill-after=10 "$checks_s" "$python" -m pytest -q -p no:cacheprovider "${tests[@]}" || checks=$?

left_s=$((total_s - (SECONDS - begun) - 15))
budget_s=${BUDGET_S:-$((left_s > 30 ? left_s : 30))}
say "timings, for $budget_s s"
timings=0
small=()
if [ "$device" = cpu ]; then small=(--seconds 0.1 --models embedded --batches 1 2); fi
timeout --kill-after=15 $((budget_s + 10)) "$python" -m benchmarks gpu --device "$device" --budget-s "$budget_s" \
    --out "$out/gpu.json" ${small[@]+"${small[@]}"} || timings=$?

say "done: checks $checks, timings $timings, $out/gpu.json"
[ "$checks" = 0 ] && [ "$timings" = 0 ]
