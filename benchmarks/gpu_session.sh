#!/usr/bin/env bash
# All that is worth measuring on a GPU, in one go of at most 25 minutes:
#
#     bash benchmarks/gpu_session.sh OUT [DATA]
#
# Needs JAX with a GPU and PyTorch, no TensorFlow. OUT gets tables, JSON and pictures. DATA is a
# prepared data set: with it the whole suite is run in bfloat16 over
# three seeds. A step that fails or runs out of its time is
# told of, and the rest go on.
set -uo pipefail
out=${1:?usage: gpu_session.sh OUT [DATA]}
data=${2:-}
here=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$out"
out=$(cd "$out" && pwd)
[ -z "$data" ] || data=$(cd "$data" && pwd)
cd "$here" || exit
export PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH}

step() { # NAME SECONDS COMMAND...
    local name=$1 seconds=$2 start=$SECONDS
    shift 2
    echo "== $name"
    timeout "$seconds" "$@" 2>&1 | tee "$out/$name.log"
    local status=${PIPESTATUS[0]}
    echo "$name: exit status $status after $((SECONDS - start)) s" | tee -a "$out/steps.log"
}

nvidia-smi >"$out/device.log" 2>&1 || true
python -c 'import jax; print(jax.__version__, jax.devices())' 2>&1 | tee -a "$out/device.log"

step accuracy 120 python benchmarks/accuracy.py
step throughput 360 python benchmarks/throughput.py --torch_compile default --profile \
    --batch 256 --seconds 2 --dtypes bf16,f32 --budget 270 --out "$out/throughput"
step throughput_10s 150 python benchmarks/throughput.py --no_torch --only train,relabel \
    --batch 128 --seconds 10 --dtypes bf16 --out "$out/throughput_10s"
step depthwise_methods 150 python benchmarks/throughput.py --methods --batch 256 --seconds 2 \
    --dtypes bf16 --out "$out/depthwise_methods"

if [ -n "$data" ]; then
    suite=(python -m psl_jax.main --config configs/own_data.py --config.data.corpus=tfds
        --config.data.data_dir="$data" --config.model.dtype=bfloat16)
    for seed in 0 1 2; do
        step "suite_$seed" 180 "${suite[@]}" --workdir "$out/suite_$seed" --config.seed=$seed
    done
fi
cat "$out/steps.log"
