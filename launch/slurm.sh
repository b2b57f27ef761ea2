#!/usr/bin/env bash
# One run on the GPUs of Slurm nodes, one process for each GPU.
#
#   sbatch --nodes=2 --ntasks-per-node=8 --gres=gpu:8 launch/slurm.sh \
#       --config configs/psl2s.py --workdir runs/psl2s ...
#
# from the root of a checkout that all nodes see, with .venv in it (pip install -e '.[cuda]').
# Arguments after the script's name go to psl_jax.main; --workdir and the data must lie where all
# nodes see them. Tasks and GPUs of a node must be as many: JAX gives task number N of a node the
# node's GPU number N, so do not bind GPUs to tasks (no --gpus-per-task).
#
# Two minutes before the time is up Slurm sends SIGTERM: the run saves where it is and ends with
# status 75. That, and processes that were killed, put the job into the queue again, where it goes
# on; at most MAX_RESTARTS (100) times. Other errors end it. A preempted job Slurm requeues itself.
# RUN=relabel runs psl_jax.relabel instead of main. PYTHON names the interpreter.

#SBATCH --job-name=psl_jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gres=gpu:4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=slurm-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?submit this script with sbatch}"

# srun does not take this over from sbatch by itself.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
status=0
# --kill-on-bad-exit: when one has ended, Slurm ends what is left, after 30 s (KillWait) by force.
srun --kill-on-bad-exit=1 --label "${PYTHON:-.venv/bin/python}" -m "psl_jax.${RUN:-main}" \
  --distributed "$@" || status=$?

case $status in
  75 | 134 | 137 | 143) ;; # told to end, left by the others, killed
  *) exit "$status" ;;
esac
if ((${SLURM_RESTART_COUNT:-0} >= ${MAX_RESTARTS:-100})); then
  echo "given up after ${SLURM_RESTART_COUNT} restarts" >&2
  exit "$status"
fi
echo "status $status: requeued, to go on" >&2
scontrol requeue "${SLURM_JOB_ID:?}"
