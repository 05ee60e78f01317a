#!/usr/bin/env bash
# All that is to be measured on a GPU, in one call of less than nine minutes: scripts/bench_gpu.sh FOLDER
# FOLDER gets bench_gpu.log, a JSON file for each part and the profile of a step, eight files in all. JSON is written
# after every group of measurements, so that a part that fails or takes too long leaves what it had, and does not stop
# the others; the exit status counts such parts.
# JAX for this GPU, flax, optax, orbax-checkpoint, scipy, PyYAML, rich and filelock have to be there. What is compared
# with (PyTorch that sees the GPU, MONAI) is left out where it is missing, which the part says; SimpleITK is not needed;
# tests that need it, or grain or jsonargparse, fail to be collected and the others run. Missing packages can be brought
# along in a folder that PYTHONPATH names. PYTHON chooses the interpreter; TOY=1 tries everything at the smallest sizes,
# on any device.
set -uo pipefail
out=$(mkdir -p "${1:?folder for the results}" && cd "$1" && pwd) || exit
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
JAX_COMPILATION_CACHE_DIR=$(mktemp -d) # what several parts need is compiled and tuned once
export JAX_COMPILATION_CACHE_DIR
trap 'rm -rf "$JAX_COMPILATION_CACHE_DIR"' EXIT

if [[ -n ${TOY:-} ]]; then
    patience=6
    losses=(--shape 1 16 16 16 --classes 3 --grid 2 --rounds 1)
    pair=(--shape 32 16 16 --classes 3 --rounds 1 --channels 2 --kernel 3)
    largest=(--largest 32 16 16 --largest-classes 3 --grid 2 --rounds 1 --channels 2 --kernel 3 --remat stages)
    volume=(--shape 32 16 16 --patch 16 16 16 --classes 3 --rounds 1 --channels 2 --kernel 3)
    tests=(tests/losses/test_values.py -k dice)
else
    patience=1
    losses=(--shape 1 128 144 256 --classes 15 --grid 16 --rounds 10)
    pair=(--shape 64 64 64 --batch 2 --classes 10 --rounds 10)
    largest=(--largest 128 144 256 --largest-classes 15 --grid 16 --rounds 10)
    volume=(--shape 256 256 256 --patch 128 128 128 --classes 15 --rounds 3)
    tests=(tests/losses/test_values.py tests/models/test_convolution.py tests/models/test_layers.py tests/train/test_step.py)
fi

failed=0
say() { printf '%s\n' "$@" | tee -a "$out/bench_gpu.log"; }

# part NAME SECONDS COMMAND...: runs a command, ended within the limit, shows the end of what it says and logs it all.
part() {
    local name=$1 limit=$(($2 * patience)) begun=$SECONDS status=0
    shift 2
    say "" "== $name"
    timeout --kill-after=2 "$((limit - 2))" "$@" 2>&1 | tee -a "$out/bench_gpu.log" | tail -n 40 || status=$?
    say "== $name: $((SECONDS - begun)) s, status $status"
    failed=$((failed + (status != 0)))
}

step() { part "$1" "$2" "$python" scripts/bench_step.py --dtype bfloat16 --json "$out/$1.json" "${@:3}"; }

describe='
import importlib.metadata as metadata, platform, jax
print(platform.platform(), platform.python_version(), jax.devices(), jax.devices()[0].device_kind)
installed = {found.metadata["Name"].lower(): found.version for found in metadata.distributions()}
wanted = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "monai", "SimpleITK", "grain", "jsonargparse")
print(*(f"{name} {installed.get(name.lower())}" for name in wanted), sep="  ")'

: >"$out/bench_gpu.log"
# The limits add up to 525 s.
command -v nvidia-smi >/dev/null && part gpu 10 nvidia-smi
part versions 25 "$python" -c "$describe"
# The largest step comes first: it is what the machine was asked for. One policy of rematerialisation after the other.
step step_largest 200 --parts largest "${largest[@]}"
step step_trace 50 --parts trace "${largest[@]}" --trace "$out/step_trace.xplane.pb.gz"
part losses 90 "$python" scripts/bench_losses.py "${losses[@]}" --pages kept --dtype float32 bfloat16 --json "$out/losses.json"
step step_monai 60 --parts monai "${pair[@]}"
part predict 50 "$python" scripts/bench_predict.py --dtype bfloat16 "${volume[@]}" --json "$out/predict.json"
# Tests hold float32 to 1e-5, where matrix units would round to 10 bits.
part tests 40 env JAX_DEFAULT_MATMUL_PRECISION=highest \
    "$python" -m pytest -v -p no:cacheprovider --continue-on-collection-errors "${tests[@]}"
say "" "$failed parts failed; results in $out, $SECONDS s"
exit "$failed"
