#!/usr/bin/env bash
# A TPU VM, of one host or a pod slice of several: created, installed, run on all of its hosts.
#
#   export NAME=psl ZONE=us-east5-b ACCELERATOR=v6e-16 VERSION=v2-alpha-tpuv6e
#   launch/tpu_vm.sh create --spot        # waits in the queue until it is there
#   launch/tpu_vm.sh install              # the committed code, on all hosts
#   launch/tpu_vm.sh run --config configs/psl2s.py --workdir /mnt/shared/runs/psl2s ...
#   launch/tpu_vm.sh logs --follow        # Ctrl-C ends only the looking
#   launch/tpu_vm.sh status | stop | ssh | all 'COMMAND' | delete
#
#   launch/tpu_vm.sh supervise --spot --config configs/psl2s.py --workdir /mnt/shared/... ...
#       # create, install and run in one; after a preemption all of it again, until the run is over
#
# A run goes on without this terminal. It is started once on each host, and the hosts find each
# other; --workdir and the data must lie where all hosts see them. Each command can be given again:
# what is there is not made twice, and what runs is not started twice.
#
# Options, after the command and before the arguments of psl_jax.main; or in the environment:
#   --name --zone --project --accelerator --version    NAME ZONE PROJECT ACCELERATOR VERSION
#   --spot                   SPOT=1       cheaper, may be taken away at any time
#   --env KEY=VALUE          of the run; may be given several times
#   --create_flag FLAG       for gcloud ... queued-resources create; several times
#   --setup COMMAND          SETUP        on each new host, such as 'sudo mount ... /mnt/shared'
#   --command relabel        RUN=relabel  instead of main: python -m psl_jax relabel
#   --worker N|all           WORKER       whose logs (default: 0)
#   --max_restarts N         MAX_RESTARTS of supervise (default: 100)
#   --dry_run                DRY_RUN=1    prints what would be called, and calls nothing
#   POLL=30 (seconds), RETRIES=5, BACKOFF=5 (seconds, doubled each time)
#
# Machine types and their VERSION: https://cloud.google.com/tpu/docs/runtimes.
set -euo pipefail
for argument; do # --help and -h only print the comment above, wherever they stand
  [[ $argument != -h && $argument != --help ]] || exec sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
done
cd "$(dirname "$0")/.."

poll=${POLL:-30} retries=${RETRIES:-5} backoff=${BACKOFF:-5}
max_restarts=${MAX_RESTARTS:-100} module=${RUN:-main} worker=${WORKER:-0} setup=${SETUP:-}
spot=${SPOT:-} dry_run=${DRY_RUN:-} follow=
environment=() create_flags=() where=() commit=
python_version=3.12
[ "$spot" != 0 ] || spot=
[ "$dry_run" != 0 ] || dry_run=

say() { echo "tpu_vm: $*" >&2; }
fail() {
  say "$1"
  exit "${2:-2}"
}

# --- gcloud, and what goes wrong with it ------------------------------------------------------

# These do not become better by waiting.
lasting='INVALID_ARGUMENT|PERMISSION_DENIED|NOT_FOUND|ALREADY_EXISTS|UNAUTHENTICATED|[Qq]uota'
lasting+='|unrecognized arguments|Invalid (choice|value)|argument .*required|credentials'
lasting+='|command not found|not properly specified|active account' # gcloud itself, and its project
lasting+='|is not installed here|still running' # by `run` and `stop`

told=$(mktemp) # gcloud's last messages
trap 'rm -f "$told"' EXIT

# Runs gcloud, again where it failed for a passing reason.
cloud() {
  if [ "$dry_run" ]; then
    { printf 'gcloud --quiet' && printf ' %q' "$@" && echo; } >&2
    return 0
  fi
  local attempt status wait=$backoff
  for ((attempt = 1; ; attempt++)); do
    status=0
    gcloud --quiet "$@" 2>"$told" || status=$? # it must not ask: nobody sees the question
    # That something is not there is no news where it is only looked for.
    if [[ " $* " = *" describe "* ]]; then grep -v NOT_FOUND "$told"; else cat "$told"; fi >&2 || true
    ((status)) || return 0
    if ((attempt >= retries)) || grep -qE "$lasting" "$told"; then
      return "$status"
    fi
    say "gcloud failed ($status); again in $wait s"
    sleep "$wait"
    wait=$((2 * wait))
  done
}

# The state of the queued resource, or with `node` of its TPU VM; NONE where there is none, UNKNOWN
# where it cannot be asked for now.
state() {
  local ask=(queued-resources describe "$NAME" "${where[@]}" --format='value(state.state)')
  [ "${1:-}" != node ] || ask=(tpu-vm describe "$NAME" "${where[@]}" --format='value(state)')
  if [ "$dry_run" ]; then
    cloud compute tpus "${ask[@]}"
    echo NONE
  else
    cloud compute tpus "${ask[@]}" && return
    if grep -q NOT_FOUND "$told"; then
      echo NONE
    elif ! grep -qE "$lasting" "$told"; then
      echo UNKNOWN
    else
      return 1
    fi
  fi
}

# Runs a command on all hosts, or on one: on_hosts all 'COMMAND'. It must bear to be run twice.
on_hosts() {
  cloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker="$1" --command="$2"
}

# --- the commands -----------------------------------------------------------------------------

request() {
  : "${ACCELERATOR:?--accelerator or ACCELERATOR is missing, such as v6e-16}"
  : "${VERSION:?--version or VERSION is missing, such as v2-alpha-tpuv6e}"
  local flags=(--node-id="$NAME" --accelerator-type="$ACCELERATOR" --runtime-version="$VERSION")
  [ -z "$spot" ] || flags+=(--spot)
  cloud compute tpus queued-resources create "$NAME" "${where[@]}" "${flags[@]}" \
    "${create_flags[@]}" || [ "$(state)" != NONE ] # made, and the answer was lost
}

# Makes the queued resource where there is none, and waits until it is ACTIVE.
create() {
  local now before='' failed=0
  while true; do
    now=$(state)
    [ "$now" = "$before" ] || say "$NAME is $now"
    before=$now
    case $now in
      ACTIVE) return ;;
      NONE)
        request || fail "$NAME cannot be created" 1
        [ -z "$dry_run" ] || return 0
        ;;
      FAILED | SUSPENDED)
        [ "${1:-}" = again ] || fail "$NAME is $now: delete it first, or use supervise" 1
        ((failed++ < max_restarts)) || fail "given up after $max_restarts times $now" 1
        delete
        ;;
      UNKNOWN) [ "${1:-}" = again ] || fail "$NAME cannot be asked for" 1 ;;
    esac
    sleep "$poll"
  done
}

delete() {
  if [ "$(state)" = NONE ] && [ -z "$dry_run" ]; then
    say "$NAME is not there"
    return
  fi
  # --force: with its VM.
  cloud compute tpus queued-resources delete "$NAME" "${where[@]}" --force ||
    [ "$(state)" = NONE ] || fail "$NAME cannot be deleted" 1
}

install() {
  local archive
  : "${commit:=$(git rev-parse HEAD)}"
  git diff --quiet HEAD || say "note: what is not committed is not installed"
  archive=$(mktemp --suffix=.tar.gz)
  git archive --format=tar.gz --output="$archive" "$commit" || fail "git archive failed" 1
  local status=0
  cloud compute tpus tpu-vm scp "$archive" "$NAME:psl_jax.tar.gz" "${where[@]}" --worker=all ||
    status=$?
  rm -f "$archive"
  ((status == 0)) || fail "the code could not be copied to $NAME" 1
  # The VM's own Python may be too old: uv brings one.
  on_hosts all "set -e
    if [ \"\$(cat psl_jax/.installed 2>/dev/null)\" = $commit ]; then exit 0; fi
    mkdir -p psl_jax && tar -xzf psl_jax.tar.gz -C psl_jax && cd psl_jax
    python3 -m pip install --user --quiet uv
    [ -d .venv ] || python3 -m uv venv --python $python_version --seed .venv
    .venv/bin/pip install --quiet -c constraints-py${python_version/./}.txt -e '.[tpu]'
    [ -f .setup ] || { ${setup:+( $setup
      )
      }touch .setup; }
    echo $commit > .installed" || fail "installing on $NAME failed" 1
}

# What a host is doing: "bare", "none", "running", or "ended STATUS" of what was started last.
# shellcheck disable=SC2016  # the hosts expand it
look='is_running() {
    pid=$(cat psl_jax_run/pid 2>/dev/null) && grep -q psl_jax_run/start "/proc/$pid/cmdline" 2>/dev/null
  }
  if is_running; then doing=running
  elif [ -f psl_jax_run/pid ]; then doing="ended $(cat psl_jax_run/status 2>/dev/null || echo 137)"
  elif [ -f psl_jax/.installed ]; then doing=none
  else doing=bare
  fi'

# What is started on each host: start_of ARGUMENTS
start_of() {
  local pair
  echo "trap : TERM # for the run; its status is still noted
cd psl_jax"
  for pair in "${environment[@]}"; do
    echo "export ${pair%%=*}=$(printf '%q' "${pair#*=}")"
  done
  echo ".venv/bin/python -m psl_jax $module --distributed$(printf ' %q' "$@")
echo \$? > ../psl_jax_run/status"
}

# Starts the run on all hosts where it does not run: run ARGUMENTS
run() {
  on_hosts all "$look
    case \$doing in
      bare) echo 'psl_jax is not installed here' >&2; exit 2 ;;
      running) echo \"\$(hostname): it runs already\"; exit 0 ;;
    esac
    mkdir -p psl_jax_run && rm -f psl_jax_run/status
    printf '%s\\n' $(printf '%q' "$(start_of "$@")") > psl_jax_run/start
    nohup setsid bash psl_jax_run/start >> psl_jax_run/log 2>&1 < /dev/null &
    echo \$! > psl_jax_run/pid"
}

# What each host is doing, a line for each. With what `start_of` gives: "other" where another run
# goes on, "none" where another one has ended.
hosts() {
  local of_this=:
  [ $# -eq 0 ] || of_this="if [ \"\$(cat psl_jax_run/start 2>/dev/null)\" != $(printf '%q' "$1") ]; then
      case \$doing in running) doing=other ;; ended*) doing=none ;; esac
    fi"
  on_hosts all "$look
    $of_this
    echo \"psl_jax: \$doing\""
}

stop() {
  on_hosts all "$look
    [ \"\$doing\" = running ] || exit 0
    kill -TERM -- -\"\$pid\" # the whole group, which saves and ends
    for second in \$(seq ${STOP_SECONDS:-300}); do is_running || exit 0; sleep 1; done
    echo \"\$(hostname): still running\" >&2; exit 1"
}

status() {
  echo "queued resource: $(state)"
  echo "TPU VM: $(state node)"
  hosts || say "the hosts cannot be asked"
}

logs() { on_hosts "$worker" "tail -n 200 ${follow:+-F} psl_jax_run/log"; }

# --- after a preemption -----------------------------------------------------------------------

# What the hosts' statuses come to: bare, other, none, running, again, lost, over, or failed STATUS.
# 75: told to end, or left by the others; above 128: killed. Those go on when started again.
outcome() {
  local lines=$1 code codes worst=over
  ! grep -q 'psl_jax: bare' <<<"$lines" || { echo bare && return; }
  ! grep -q 'psl_jax: other' <<<"$lines" || { echo other && return; }
  # Before running: a host may have missed the start, and the others wait for it.
  ! grep -q 'psl_jax: none' <<<"$lines" || { echo none && return; }
  ! grep -q 'psl_jax: running' <<<"$lines" || { echo running && return; }
  codes=$(sed -n 's/.*psl_jax: ended //p' <<<"$lines")
  [ "$codes" ] || { echo lost && return; }
  for code in $codes; do
    if ((code != 0 && code != 75 && code <= 128)); then
      echo "failed $code"
      return
    fi
    ((code == 0)) || worst=again
  done
  echo "$worst"
}

# Starts it, where there is one start left; the first time the code of today is installed.
start() {
  ((starts <= max_restarts)) || fail "given up after $max_restarts restarts" 1
  ((starts == 0)) || say "start number $((starts + 1))"
  if [ "$installed" ] || try_install; then
    run "$@" || say "could not be started; again in $poll s"
    starts=$((starts + 1))
  fi
  sleep "$poll"
}

# Installs, which may fail where the VM is taken away meanwhile; some times, not for ever.
try_install() {
  if (install); then
    failed_installs=0 installed=1
    return
  fi
  ((failed_installs++ < retries)) || fail "given up: it cannot be installed" 1
  say "again in $poll s"
  sleep "$poll"
  return 1
}

# Has the run going until it is over: supervise ARGUMENTS
supervise() {
  local lines now starts=0 partly=0 failed_installs=0 installed='' wanted
  wanted=$(start_of "$@")
  commit=$(git rev-parse HEAD) # also of what is installed after a preemption
  while true; do
    create again
    [ -z "$dry_run" ] || { install && run "$@" && return; }
    if [ "$(state node)" = READY ] && lines=$(hosts "$wanted"); then
      now=$(outcome "$lines")
    else
      now=lost
    fi
    # What failed before this command was given may have been mended since.
    [[ $starts != 0 || $now != failed* ]] || now=again
    case $now in
      bare) try_install || true ;;
      none | again) start "$@" ;;
      other) fail "another run goes on on $NAME: wait for it, or stop it first" 1 ;;
      running)
        # Where some hosts have ended the others soon do; if not, they wait for what is gone.
        if grep -q 'psl_jax: ended' <<<"$lines"; then partly=$((partly + 1)); else partly=0; fi
        ((partly < ${PATIENCE:-10})) || { stop || true; }
        sleep "$poll"
        ;;
      lost)
        say "the hosts of $NAME cannot be asked; its node is $(state node)"
        case $(state node) in
          PREEMPTED | TERMINATED | STOPPED | NONE) delete ;;
        esac
        sleep "$poll"
        ;;
      over)
        say "the run is over; $NAME is still there, and paid for: $0 delete"
        return
        ;;
      failed*)
        logs || true
        fail "the run failed with status ${now#failed }, see the log above; not started again" \
          "${now#failed }"
        ;;
    esac
  done
}

# --- the command line -------------------------------------------------------------------------

# Ends where psl_jax would reject an option: before anything that is paid for is created. Which
# options there are stands in the program's source, as it need not be installed here.
check_arguments() {
  local argument before='' sources=("psl_jax/commands/$module.py") known=''
  [ "$module" != main ] || sources=(psl_jax/main.py)
  [ -f "${sources[0]}" ] || fail "--command is '$module': there is no command $module"
  if [ "$module" = main ]; then
    known='config(\..*)?|'
  else
    sources+=(psl_jax/teachers/scoring_cli.py)
  fi
  sources+=(psl_jax/runtime/cli_entry.py)
  known+=$(grep -ohzE '(add|add_argument)\(\s*"(--)?[a-z_]+"' "${sources[@]}" |
    tr '\0' '\n' | sed -n 's/.*"\(--\)\{0,1\}\([a-z_]*\)"$/\2/p' | paste -sd '|')
  for argument; do
    [[ ! $argument =~ ^-(-?[a-z][^=]*) || ${BASH_REMATCH[1]} =~ ^-($known)$ ]] ||
      fail "unknown option '$argument' of psl-jax $module; the options of $0 stand before it"
    [[ $module != main || $argument == -* || $before == -* && $before != *=* ]] ||
      fail "'$argument' is no option of psl-jax main"
    [[ $argument != --config.* || $argument == *=* ]] ||
      fail "'$argument': expected a value, as $argument=VALUE"
    before=$argument
  done
}

command=${1:-}
[ $# -eq 0 ] || shift
while [ $# -gt 0 ]; do
  case $1 in
    --name=* | --zone=* | --project=* | --accelerator=* | --version=* | --env=* | --create_flag=* | \
      --setup=* | --command=* | --worker=* | --max_restarts=*)
      set -- "${1%%=*}" "${1#*=}" "${@:2}"
      ;;
  esac
  case $1 in
    --spot) spot=1 && shift && continue ;;
    --dry_run) dry_run=1 && shift && continue ;;
    --follow) follow=1 && shift && continue ;;
    --name | --zone | --project | --accelerator | --version | --env | --create_flag | --setup | \
      --command | --worker | --max_restarts)
      [ $# -gt 1 ] || fail "$1 needs a value"
      ;;
    --) shift && break ;;
    *) break ;;
  esac
  case $1 in
    --name) NAME=$2 ;;
    --zone) ZONE=$2 ;;
    --project) PROJECT=$2 ;;
    --accelerator) ACCELERATOR=$2 ;;
    --version) VERSION=$2 ;;
    --env)
      [[ $2 =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || fail "--env is '$2', expected KEY=VALUE"
      environment+=("$2")
      ;;
    --create_flag) create_flags+=("$2") ;;
    --setup) setup=$2 ;;
    --command) module=$2 ;;
    --worker) worker=$2 ;;
    --max_restarts) max_restarts=$2 ;;
  esac
  shift 2
done

case $command in
  create | install | run | logs | status | stop | supervise | delete | all | ssh) ;;
  *) fail "usage: $0 create|install|run|logs|status|stop|supervise|all|ssh|delete [OPTIONS] ..." ;;
esac
[[ $max_restarts =~ ^[0-9]+$ ]] || fail "--max_restarts is '$max_restarts', expected a number"
[ "${NAME:-}" ] || fail "--name or NAME is missing: what the TPU VM is to be called"
[ "${ZONE:-}" ] || fail "--zone or ZONE is missing, such as us-east5-b"
where=(--zone="$ZONE")
[ -z "${PROJECT:-}" ] || where+=(--project="$PROJECT")
case $command in
  run | supervise)
    [ $# -gt 0 ] || fail "$command needs arguments"
    check_arguments "$@"
    ;;
  all) [ $# -gt 0 ] || fail "$command needs arguments" ;;
  *) [ $# -eq 0 ] || fail "$command: unknown argument '$1'" ;;
esac

case $command in
  all) retries=1 on_hosts all "$*" ;;
  ssh)
    connect=(compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker="$worker")
    if [ "$dry_run" ]; then cloud "${connect[@]}"; else exec gcloud "${connect[@]}"; fi
    ;;
  *) "$command" "$@" ;;
esac
