#!/usr/bin/env bash
# All that is to be measured on a GPU, in one call of less than nine minutes: scripts/bench_gpu.sh FOLDER
# FOLDER gets a log and a JSON file for each part. What is not installed is left out; a part that fails or takes too
# long does not stop the others, and the exit status counts them. PYTHON chooses the interpreter; TOY=1 tries
# everything at the smallest sizes, on any device.
set -uo pipefail
out=$(mkdir -p "${1:?folder for the results}" && cd "$1" && pwd) || exit
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false
export JAX_COMPILATION_CACHE_DIR=$out/.compiled # programs that several parts need compile once

if [[ -n ${TOY:-} ]]; then
    losses=(--shape 1 16 16 16 --classes 3 --grid 2 --rounds 1)
    pair=(--shape 32 16 16 --classes 3 --rounds 1 --channels 2 --kernel 3)
    largest=(--largest 16 16 32 --largest-classes 3 --grid 2 --rounds 1 --channels 2 --kernel 3)
    volume=(--shape 32 16 16 --patch 16 16 16 --classes 3 --rounds 1 --channels 2 --kernel 3)
    tests=(tests/losses/test_regions.py)
else
    losses=(--shape 1 128 144 256 --classes 15 --grid 16 --rounds 10)
    pair=(--shape 64 64 64 --batch 2 --classes 10 --rounds 10)
    largest=(--largest 128 144 256 --largest-classes 15 --grid 16 --rounds 10)
    volume=(--shape 256 256 256 --patch 128 128 128 --classes 15 --rounds 3)
    tests=(tests/losses tests/models tests/train/test_export.py)
fi

failed=0
# part NAME SECONDS COMMAND...: runs a command within a limit, shows the end of what it says and keeps all of it.
part() {
    local name=$1 limit=$2 begun=$SECONDS status=0
    shift 2
    printf '\n== %s\n' "$name"
    timeout --kill-after=5 "$limit" "$@" >"$out/$name.log" 2>&1 || status=$?
    tail -n 40 "$out/$name.log"
    printf '== %s: %s s, status %s\n' "$name" $((SECONDS - begun)) "$status"
    failed=$((failed + (status != 0)))
}

part environment 60 bash -c '
    nvidia-smi || echo "no nvidia-smi"
    "$0" -c "
import importlib.metadata as metadata, platform
import jax
print(platform.platform(), platform.python_version(), jax.devices(), jax.devices()[0].device_kind)
for name in (\"jax\", \"jaxlib\", \"flax\", \"optax\", \"numpy\", \"torch\", \"monai\"):
    try:
        print(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        print(name, \"is not installed\")
"' "$python"
# The largest step comes first: it is what the machine was asked for.
part step_largest 200 "$python" scripts/bench_step.py --parts largest --dtype bfloat16 "${largest[@]}" --json "$out/step_largest.json"
part losses_float32 60 "$python" scripts/bench_losses.py "${losses[@]}" --json "$out/losses_float32.json"
part losses_bfloat16 60 "$python" scripts/bench_losses.py "${losses[@]}" --dtype bfloat16 --json "$out/losses_bfloat16.json"
part step_bfloat16 60 "$python" scripts/bench_step.py --parts monai --dtype bfloat16 "${pair[@]}" --json "$out/step_bfloat16.json"
part predict 40 "$python" scripts/bench_predict.py --dtype bfloat16 "${volume[@]}" --json "$out/predict.json"
# Tests hold float32 to 1e-5, where matrix units would round to 10 bits.
part tests 55 env JAX_DEFAULT_MATMUL_PRECISION=highest "$python" -m pytest -q -x --no-header -p no:cacheprovider "${tests[@]}"
printf '\n%s parts failed; results in %s, %s s\n' "$failed" "$out" "$SECONDS"
exit "$failed"
