#!/usr/bin/env bash
# A teacher's soft labels for a whole corpus, by all hosts of a TPU VM together.
#
#   export NAME=psl ZONE=us-east5-b ACCELERATOR=v6e-16 VERSION=v2-alpha-tpuv6e
#   launch/relabel.sh [OPTIONS of tpu_vm.sh] /mnt/shared/runs/teacher /mnt/shared/data/audioset \
#       --split=full --segment_seconds=2 --out=/mnt/shared/labels/2s
#
# Creates and installs what is not there, relabels, and goes on after a preemption: labels are
# written shard by shard, each host its own. Each command of launch/tpu_vm.sh works meanwhile.
# On Slurm: RUN=relabel sbatch ... launch/slurm.sh MODEL DATA --segment_seconds=2 --out=...
set -euo pipefail
for argument; do # --help and -h only print the comment above, wherever they stand
  [[ $argument != -h && $argument != --help ]] || exec sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
done
[ $# -gt 0 ] || {
  echo "give MODEL DATA --segment_seconds=S --out=DIR; --help tells more" >&2
  exit 2
}
exec "$(dirname "$0")/tpu_vm.sh" supervise --command=relabel "$@"
