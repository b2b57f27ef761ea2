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
# status 75. The job is then put into the queue again, where it goes on, at most MAX_RESTARTS (100)
# times; also where processes were killed. Where any process ended with an error, the job ends.
# Slurm requeues a preempted job itself.
# RUN=relabel runs psl-jax relabel instead of main. PYTHON names the interpreter.

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
for argument; do # --help and -h only print the comment above, wherever they stand
  [[ $argument != -h && $argument != --help ]] || exec sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
done
cd "${SLURM_SUBMIT_DIR:?submit this script with sbatch}"

# srun does not take this over from sbatch by itself.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
# srun returns the highest of the tasks' statuses. An error of one task, such as 2, makes the others
# end with 75 or be killed (above 128): 200 is added to it, so that srun returns the error.
# shellcheck disable=SC2016  # the tasks expand it
task='trap : TERM HUP USR1 # for psl_jax, which is sent them, too
  "$@" || status=$?
  case ${status:-0} in
    0 | 75 | 129 | 134 | 137 | 138 | 143) exit "${status:-0}" ;;
    *) exit $((status < 55 ? 200 + status : 201)) ;;
  esac'
status=0
# --kill-on-bad-exit: when one has ended, Slurm ends what is left, after 30 s (KillWait) by force.
srun --kill-on-bad-exit=1 --label bash -c "$task" task "${PYTHON:-.venv/bin/python}" \
  -m psl_jax "${RUN:-main}" --distributed "$@" || status=$?

((status < 200)) || exit $((status - 200))
case $status in
  75 | 129 | 134 | 137 | 138 | 143) ;; # told to end, left by the others, killed
  *) exit "$status" ;;
esac
if ((${SLURM_RESTART_COUNT:-0} >= ${MAX_RESTARTS:-100})); then
  echo "given up after ${SLURM_RESTART_COUNT} restarts" >&2
  exit "$status"
fi
echo "status $status: requeued, to go on" >&2
scontrol requeue "${SLURM_JOB_ID:?}"
