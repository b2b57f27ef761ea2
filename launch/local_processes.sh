#!/usr/bin/env bash
# One run by several processes of this machine, on its CPU or with one GPU each.
#
#   launch/local_processes.sh 2 --config configs/psl2s.py --workdir runs/psl2s ...
#
# The first argument is the number of processes, the others go to psl_jax.main. Relative paths start
# where this is called. Process 0 writes to the terminal, the others to local_processes_<N>.log in
# the folder LOGS (default: here). When one ends with an error, the others are told to end, too.
#
# DEVICES=gpu gives process N the GPU number N; the default, cpu, uses none.
# PYTHON=... names the interpreter (default: the repository's .venv/bin/python), PORT=... the port
# of process 0.
set -euo pipefail
for argument; do # --help and -h only print the comment above, wherever they stand
  [[ $argument != -h && $argument != --help ]] || exec sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
done

repository=$(cd "$(dirname "$0")/.." && pwd)
count=${1:?the first argument is the number of processes}
[[ $count =~ ^[1-9][0-9]*$ ]] || { echo "$count: expected the number of processes" >&2 && exit 2; }
shift
export PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH}
python=${PYTHON:-$repository/.venv/bin/python}
logs=${LOGS:-.}
mkdir -p "$logs"
find_port='import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
port=${PORT:-$("$python" -c "$find_port")}

run() { # number of the process, then the arguments of psl_jax.main
  case ${DEVICES:-cpu} in
    cpu) export JAX_PLATFORMS=cpu ;;
    gpu) export CUDA_VISIBLE_DEVICES=$1 ;;
    *) echo "DEVICES is '$DEVICES', expected cpu or gpu" >&2 && exit 2 ;;
  esac
  exec "$python" -m psl_jax.main --distributed --coordinator_address="127.0.0.1:$port" \
    --num_processes="$count" --process_id="$1" "${@:2}"
}

pids=()
end_all() { # and wait: who starts the same again at once must not meet them at work
  kill "${pids[@]}" 2>/dev/null || true
  wait
}
trap end_all EXIT
run 0 "$@" &
pids+=($!)
for ((process = 1; process < count; process++)); do
  run "$process" "$@" >"$logs/local_processes_$process.log" 2>&1 &
  pids+=($!)
done
for _ in "${pids[@]}"; do
  wait -n # its status is the script's, and the first failure ends the others
done
