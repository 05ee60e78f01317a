#!/usr/bin/env bash
# All that is to be measured on a GPU, in one call of less than nine minutes: scripts/bench_gpu.sh FOLDER
# FOLDER gets bench_gpu.log and a JSON file for each part. What is not installed is left out; a part that fails or takes
# too long does not stop the others, and the exit status counts them. PYTHON chooses the interpreter; TOY=1 tries
# everything at the smallest sizes, on any device.
set -uo pipefail
out=$(mkdir -p "${1:?folder for the results}" && cd "$1" && pwd) || exit
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false
JAX_COMPILATION_CACHE_DIR=$(mktemp -d) # what several parts need is compiled and tuned once
export JAX_COMPILATION_CACHE_DIR
trap 'rm -rf "$JAX_COMPILATION_CACHE_DIR"' EXIT

if [[ -n ${TOY:-} ]]; then
    patience=6
    losses=(--shape 1 16 16 16 --classes 3 --grid 2 --rounds 1)
    pair=(--shape 32 16 16 --classes 3 --rounds 1 --channels 2 --kernel 3)
    largest=(--largest 16 16 32 --largest-classes 3 --grid 2 --rounds 1 --channels 2 --kernel 3)
    volume=(--shape 32 16 16 --patch 16 16 16 --classes 3 --rounds 1 --channels 2 --kernel 3)
    tests=(tests/losses/test_regions.py)
else
    patience=1
    losses=(--shape 1 128 144 256 --classes 15 --grid 16 --rounds 10)
    pair=(--shape 64 64 64 --batch 2 --classes 10 --rounds 10)
    largest=(--largest 128 144 256 --largest-classes 15 --grid 16 --rounds 10)
    volume=(--shape 256 256 256 --patch 128 128 128 --classes 15 --rounds 3)
    tests=(tests/losses tests/models tests/train/test_export.py)
fi

failed=0
say() { printf '%s\n' "$@" | tee -a "$out/bench_gpu.log"; }

# part NAME SECONDS COMMAND...: runs a command within a limit, shows the end of what it says and logs all of it.
part() {
    local name=$1 limit=$(($2 * patience)) begun=$SECONDS status=0
    shift 2
    say "" "== $name"
    timeout --kill-after=5 "$limit" "$@" 2>&1 | tee -a "$out/bench_gpu.log" | tail -n 30 || status=$?
    say "== $name: $((SECONDS - begun)) s, status $status"
    failed=$((failed + (status != 0)))
}

describe='
import importlib.metadata as metadata, platform, jax
print(platform.platform(), platform.python_version(), jax.devices(), jax.devices()[0].device_kind)
installed = {found.metadata["Name"]: found.version for found in metadata.distributions()}
print(*(f"{name} {installed.get(name)}" for name in ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "monai")))'

: >"$out/bench_gpu.log"
command -v nvidia-smi >/dev/null && part gpu 10 nvidia-smi
part versions 25 "$python" -c "$describe"
# The largest step comes first: it is what the machine was asked for.
for remat in none convolutions stages; do
    part "step_largest_$remat" 95 "$python" scripts/bench_step.py --parts largest --remat "$remat" --dtype bfloat16 \
        "${largest[@]}" --json "$out/step_largest_$remat.json"
done
for dtype in float32 bfloat16; do
    part "losses_$dtype" 40 "$python" scripts/bench_losses.py "${losses[@]}" --dtype "$dtype" --json "$out/losses_$dtype.json"
done
part step_monai 50 "$python" scripts/bench_step.py --parts monai --dtype bfloat16 "${pair[@]}" --json "$out/step_monai.json"
part predict 45 "$python" scripts/bench_predict.py --dtype bfloat16 "${volume[@]}" --json "$out/predict.json"
# Tests hold float32 to 1e-5, where matrix units would round to 10 bits.
part tests 40 env JAX_DEFAULT_MATMUL_PRECISION=highest "$python" -m pytest -q -p no:cacheprovider "${tests[@]}"
say "" "$failed parts failed; results in $out, $SECONDS s"
exit "$failed"
