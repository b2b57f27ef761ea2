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
# A job that was preempted or ran out of time goes on when it is submitted again.

#SBATCH --job-name=psl_jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gres=gpu:4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=slurm-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?submit this script with sbatch}"

# srun does not take this over from sbatch by itself.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
exec srun --kill-on-bad-exit=1 --label .venv/bin/python -m psl_jax.main --distributed "$@"
