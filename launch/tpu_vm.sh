#!/usr/bin/env bash
# A TPU VM, of one host or a pod slice of several, from creation to a run on all of its hosts.
#
#   export NAME=psl ZONE=us-central2-b
#   ACCELERATOR=v4-32 VERSION=tpu-ubuntu2204-base launch/tpu_vm.sh create
#   launch/tpu_vm.sh install              # copies the committed code to all hosts, installs it
#   launch/tpu_vm.sh run --config configs/psl2s.py --workdir /mnt/shared/runs/psl2s \
#       --config.data.data_dir=/mnt/shared/data/... --config.teacher=/mnt/shared/runs/teacher
#   launch/tpu_vm.sh ssh                  # a shell on the first host
#   launch/tpu_vm.sh delete
#
# `run` takes the arguments of psl_jax.main and starts it once on each host; the hosts find each
# other. --workdir and the data must lie where all hosts see them, such as a Filestore share mounted
# on each (launch/tpu_vm.sh all 'sudo mount ...'); on a single host its own disk will do.
# It lives as long as this terminal: start it within tmux, or again, when it goes on where it was.
# For machine types and their VERSION see https://cloud.google.com/tpu/docs/runtimes.
set -euo pipefail
cd "$(dirname "$0")/.."

: "${NAME:?name of the TPU VM}" "${ZONE:?its zone}"
tpu=(gcloud compute tpus tpu-vm)
python_version=3.12

all() { "${tpu[@]}" ssh "$NAME" --zone="$ZONE" --worker=all --command="$1"; }

install() {
  archive=$(mktemp --suffix=.tar.gz)
  trap 'rm -f "$archive"' EXIT
  git archive --format=tar.gz --output="$archive" HEAD
  "${tpu[@]}" scp "$archive" "$NAME:psl_jax.tar.gz" --zone="$ZONE" --worker=all
  # The VM's own Python is too old: uv brings one.
  all "set -e
    mkdir -p psl_jax && tar -xzf psl_jax.tar.gz -C psl_jax && cd psl_jax
    python3 -m pip install --user --quiet uv
    [ -d .venv ] || python3 -m uv venv --python $python_version --seed .venv
    .venv/bin/pip install --quiet -c constraints.txt -e '.[tpu]'"
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
  create)
    "${tpu[@]}" create "$NAME" --zone="$ZONE" --accelerator-type="${ACCELERATOR:?such as v4-32}" \
      --version="${VERSION:?runtime version, such as tpu-ubuntu2204-base}"
    ;;
  install) install ;;
  run) all "cd psl_jax && exec .venv/bin/python -m psl_jax.main --distributed $(printf '%q ' "$@")" ;;
  all) all "$*" ;;
  ssh) "${tpu[@]}" ssh "$NAME" --zone="$ZONE" ;;
  delete) "${tpu[@]}" delete "$NAME" --zone="$ZONE" ;;
  *)
    echo "usage: $0 create | install | run ARGUMENTS | all COMMAND | ssh | delete" >&2
    exit 2
    ;;
esac
