#!/usr/bin/env bash
# What to run first on a GPU, in about ten minutes of one H100: tests that need a GPU, steps, then cells of cifar10-fast.
#   tests/gpu/run.sh DATA OUT [SECONDS]
# DATA is a folder with train/<class>/* and test/<class>/*. Results go to OUT; the same command goes on where it stopped.
# DEVICE=cpu TINY=1 tries it on a processor. Run it where uebench is installed.
set -eu
data=$(realpath "$1") out=$2 seconds=${3:-560} device=${DEVICE:-cuda:0} workers=${WORKERS:-14} began=$SECONDS
here=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$out" && cd "$out"
export OMP_NUM_THREADS=1
left() { echo $((seconds - SECONDS + began)); }
if [ ! -e steps.json ]; then timeout "$(left)" python "$here/tests/gpu/steps.py" steps.json "$device" ${TINY:+tiny}; fi
# Small networks leave most of the GPU idle: this lets several processes compute on it at once.
if [ "$device" != cpu ] && command -v nvidia-cuda-mps-control; then
  export CUDA_MPS_PIPE_DIRECTORY=$PWD/mps CUDA_MPS_LOG_DIRECTORY=$PWD/mps
  mkdir -p mps
  nvidia-cuda-mps-control -d
  trap 'echo quit | nvidia-cuda-mps-control' EXIT
fi
if [ ! -e tests.txt ] && [ -z "${TINY:-}" ]; then
  (cd "$here" && timeout "$(left)" python -m pytest -q -n 3 -k "cuda or gpu" tests/compute tests/integration/test_gpu.py) > tests.txt || true
fi
set="folder:path=$data,title=cifar10-jpeg${TINY:+,train_limit=1100,test_limit=100}"
parts=(--seed 0,1,2 --noise none --noise sc-linf --noise em --noise tap --noise ntga --noise rem --noise sem)
parts+=(--breaker none --breaker grayscale --breaker jpeg --breaker adv-linf)
if [ -n "${TINY:-}" ]; then parts=(--seed 0 --noise sc-linf --breaker none --recipe quick:steps=8,batch=64); fi
# Stopped in time, a run writes the board of what is done.
timeout --foreground -s TERM "$(left)" python -m uebench run cifar10-fast --dataset "$set" "${parts[@]}" --device "$device" \
  --workers "$workers" --keep-every 600 --store store --boards boards || true
tail -n 3 boards/cifar10-fast/results.jsonl | cut -c 1-200
