#!/usr/bin/env bash
# Prepares a corpus by the workers of Google Cloud Dataflow.
#
#   export PROJECT=my-project REGION=us-east5 TEMP=gs://my-bucket/tmp
#   launch/beam_dataflow.sh --corpus audioset --source_dir /mnt/shared/audio --data_dir /mnt/shared/data
#
# Arguments go to psl-jax prepare. Recordings and data folder must lie where this machine and all
# workers see them under the same path. psl_jax is built here and installed on the workers; with
# IMAGE=... they use a container image that has it, which starts faster and brings ffmpeg.
# Needs pip install -e '.[beam]' 'apache-beam[gcp]' build. Also: WORKERS (at most; default 100),
# MACHINE (n1-standard-4), BEAM_OPTIONS (more of the pipeline's), DRY_RUN=1, PYTHON.
set -euo pipefail
for argument; do # --help and -h only print the comment above, wherever they stand
  [[ $argument != -h && $argument != --help ]] || exec sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
done
cd "$(dirname "$0")/.."

: "${PROJECT:?PROJECT is missing: the Google Cloud project}"
: "${REGION:?REGION is missing, such as us-east5}"
: "${TEMP:?TEMP is missing: a folder for Dataflow, such as gs://my-bucket/tmp}"
[ $# -gt 0 ] || { echo "give the arguments of psl-jax prepare: --corpus ..." >&2 && exit 2; }
python=${PYTHON:-.venv/bin/python}

options=(--runner=DataflowRunner --project="$PROJECT" --region="$REGION" --temp_location="$TEMP"
  --job_name="psl-jax-prepare-$(date +%Y%m%d-%H%M%S)" --max_num_workers="${WORKERS:-100}"
  --worker_machine_type="${MACHINE:-n1-standard-4}")
dry_run() { [ "${DRY_RUN:-0}" != 0 ]; }
if [ -n "${IMAGE:-}" ]; then
  options+=(--sdk_container_image="$IMAGE" --sdk_location=container)
else
  wheels=$(mktemp -d)
  trap 'rm -rf "$wheels"' EXIT
  dry_run || "$python" -m build --wheel --outdir="$wheels" . >&2
  for wheel in "$wheels"/*.whl; do options+=(--extra_package="$wheel"); done
fi

# One argument holds them all, which prepare splits as a shell does.
command=("$python" -m psl_jax prepare "$@"
  "--beam_options=$(printf '%q ' "${options[@]}")${BEAM_OPTIONS:-}")
if dry_run; then
  printf '%q ' "${command[@]}" && echo
else
  "${command[@]}"
fi
