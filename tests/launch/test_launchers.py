"""The launchers for Slurm, GKE and Dataflow, against stand-ins that record how they are called."""

import json
import os
import re
import shlex
import shutil
import sys

import places
import programs
import pytest
import yaml

from psl_jax.runtime import interrupts

LAUNCH = places.ROOT / "launch"

# Writes its name and arguments; its status is that of its task, or 0.
RECORD = """#!{python} -IS
import json, os, sys
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
if "SLURM_PROCID" in os.environ:
    sys.exit(int(os.environ["STATUSES"].split()[int(os.environ["SLURM_PROCID"])]))
"""

# Runs two tasks; returns the highest of their statuses, as srun does.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
SLURM_PROCID=0 "$@"; first=$?
SLURM_PROCID=1 "$@"; second=$?
exit $((first > second ? first : second))
"""


@pytest.fixture
def launch(tmp_path):
    """Runs a launcher with stand-ins on the path: the finished process, and what was called."""
    (tmp_path / "bin").mkdir()
    record = RECORD.format(python=sys.executable)
    for name, text in {"srun": SRUN, "scontrol": record, "python": record}.items():
        programs.write(tmp_path / "bin" / name, text)
    calls = tmp_path / "calls"
    where = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "CALLS": str(calls)}

    def run(script, *arguments, **environment):
        calls.write_text("")
        done = programs.run([LAUNCH / script, *arguments], where | environment)
        return done, [json.loads(line) for line in calls.read_text().splitlines()]

    return run


AWKWARD = ["--config=configs/my config.py", "it's", 'say "hi"', "$HOME `ls`", "*"]
JOB = {"SLURM_SUBMIT_DIR": str(places.ROOT), "SLURM_JOB_ID": "17", "PYTHON": "python"}


@pytest.mark.parametrize(
    ("statuses", "restarts", "ends", "requeued"),
    [
        ("0 0", 0, 0, False),
        ("75 75", 0, 0, True),  # told to end, as the time is up
        ("75 137", 3, 0, True),  # a task was killed
        ("75 2", 0, 2, False),  # a setting is wrong, and the other task was left alone
        ("1 137", 0, 1, False),
        ("139 75", 0, 1, False),  # it crashed
        ("75 0", 5, 75, False),  # too often
    ],
)
def test_slurm_requeues_what_can_go_on(launch, statuses, restarts, ends, requeued):
    limits = {"SLURM_RESTART_COUNT": str(restarts), "MAX_RESTARTS": "5"}
    done, calls = launch("slurm.sh", *AWKWARD, **JOB, **limits, STATUSES=statuses)
    task = ["python", "-m", "psl_jax", "main", "--distributed", *AWKWARD]
    assert done.returncode == ends, done.stderr
    assert calls == [task] * 2 + [["scontrol", "requeue", "17"]] * requeued


def test_slurm_says_in_time_that_the_time_is_up():
    options = re.findall(r"^#SBATCH (\S+)", (LAUNCH / "slurm.sh").read_text(), re.MULTILINE)
    # Without B: before it, the signal goes to the processes, not to the script, which would die.
    assert "--signal=TERM@120" in options and "--requeue" in options


def test_slurm_wants_to_be_submitted(launch):
    done, calls = launch("slurm.sh", "--config=x", SLURM_SUBMIT_DIR="")
    assert done.returncode != 0 and "submit this script with sbatch" in done.stderr and not calls


@pytest.mark.parametrize("script", sorted(path.name for path in LAUNCH.glob("*.sh")))
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_calls_nothing(launch, script, option):
    about = (LAUNCH / script).read_text().splitlines()[1]
    done, calls = launch(script, "2", "--config=x", option, **CLOUD)
    assert done.returncode == 0 and done.stdout.startswith(about.removeprefix("# ")) and not calls


def run_local(folder, python):
    """Runs two processes in a folder; `python` is what stands for it."""
    programs.write(folder / "python", f"#!/bin/bash\n{python}")
    environment = {"PYTHON": str(folder / "python"), "PORT": "1", "LOGS": "logs/today"}
    command = [LAUNCH / "local_processes.sh", "2", "--config=x"]
    return programs.run(command, environment, cwd=folder)


def test_local_processes_start_where_they_are_called(tmp_path):
    done = run_local(tmp_path, 'pwd\necho "$PYTHONPATH"\n')
    assert done.returncode == 0, done.stderr
    for told in (done.stdout, (tmp_path / "logs/today/local_processes_1.log").read_text()):
        folder, path = told.splitlines()
        assert folder == str(tmp_path) and path.split(":")[0] == str(places.ROOT)


def test_local_processes_are_waited_for(tmp_path):
    """Who starts the same again at once must not meet a process that still saves."""
    done = run_local(
        tmp_path,
        "case $* in *--process_id=1*) sleep 1; exit 75 ;; esac\n"
        f"trap 'sleep 2; touch {tmp_path}/saved; exit 75' TERM\nsleep 20 >/dev/null 2>&1 & wait\n",
    )
    assert done.returncode == 75 and (tmp_path / "saved").exists()


CLOUD = {"PROJECT": "p", "REGION": "r", "TEMP": "gs://b/t", "PYTHON": "python", "IMAGE": "i:1"}


def test_dataflow_gets_one_argument_of_options(launch):
    more = "--label='a b'"
    done, (call,) = launch("beam_dataflow.sh", *AWKWARD, **CLOUD, BEAM_OPTIONS=more, DRY_RUN="0")
    assert done.returncode == 0, done.stderr
    assert call[:-1] == ["python", "-m", "psl_jax", "prepare", *AWKWARD]
    name, _, options = call[-1].partition("=")
    assert name == "--beam_options"
    found = shlex.split(options)  # as psl_jax.preparing.split_writer does
    assert {"--runner=DataflowRunner", "--project=p", "--region=r"} <= set(found)
    assert {"--temp_location=gs://b/t", "--sdk_container_image=i:1", "--label=a b"} <= set(found)
    assert all(option.startswith("--") for option in found)
    done, calls = launch("beam_dataflow.sh", *AWKWARD, **CLOUD, DRY_RUN="1")
    assert shlex.split(done.stdout)[4 : 4 + len(AWKWARD)] == AWKWARD and not calls


@pytest.mark.parametrize("name", ["PROJECT", "REGION", "TEMP"])
def test_dataflow_names_what_is_missing(launch, name):
    done, calls = launch("beam_dataflow.sh", "--corpus=audioset", **(CLOUD | {name: ""}))
    assert done.returncode != 0 and f"{name} is missing" in done.stderr and not calls


def test_the_jobset_starts_one_pod_a_host_and_restarts_what_can_go_on():
    jobset = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    rows, columns = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert job["parallelism"] == job["completions"] == int(rows) * int(columns) // chips
    assert container["command"][1:] == ["-m", "psl_jax.main", "--distributed"]
    (rule,) = job["podFailurePolicy"]["rules"]
    ends = rule["onExitCodes"]
    assert ends["containerName"] == container["name"] and rule["action"] == "FailJob"
    assert not {interrupts.RESTART, 134, 137, 143} & set(ends["values"])
    assert {1, 2} <= set(ends["values"]) and pod["restartPolicy"] == "Never"
    (rule,) = jobset["spec"]["failurePolicy"]["rules"]
    assert rule == {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="there is no shellcheck")
def test_shellcheck():
    done = programs.run(["shellcheck", *LAUNCH.glob("*.sh")])
    assert done.returncode == 0, done.stdout
