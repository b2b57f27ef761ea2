"""launch/tpu_vm.sh against a fake gcloud whose hosts are folders; see fake_cloud.py."""

import json
import re
import shutil

import places
import programs
import pytest
import tpu_cloud

from psl_jax import main
from psl_jax.commands import relabel


@pytest.fixture
def cloud(tmp_path):
    one = tpu_cloud.Cloud(tmp_path)
    yield one
    one.plan()
    one("delete")  # ends what runs


AWKWARD = ["--config=configs/my config.py", "--workdir", "it's", "--seeds", 'say "hi"']
AWKWARD += ["--stage", "$HOME `ls` \\n", "--folds", "a\nb", "--process_id", "", "--config.x=*"]


def test_from_creation_to_deletion(cloud):
    cloud.ok("create", "--spot", "--create_flag=--network=other")
    (created,) = cloud.calls("queued-resources", "create")
    assert created[5] == "psl"
    assert set(created[6:]) == {
        *("--zone=here", "--node-id=psl", "--accelerator-type=v6e-8", "--runtime-version=v2"),
        *("--spot", "--network=other"),
    }
    bare = cloud("run", "--config=x")
    assert bare.returncode != 0 and "psl_jax is not installed here" in bare.stderr
    assert len(cloud.calls("tpu-vm", "ssh")) == 1  # it would not become better
    cloud.ok("install", "--setup=touch $HOME/mounted")
    cloud.ok("run", "--env", "MINE=it's $mine", *AWKWARD)
    for host in ("host0", "host1"):
        cloud.wait_for_starts(1, host)
        (start,) = cloud.starts(host)
        assert start["argv"] == ["-m", "psl_jax", "main", "--distributed", *AWKWARD]
        assert start["mine"] == "it's $mine"
        assert (cloud.folder / "hosts" / host / "mounted").exists()
        installed = (cloud.folder / "hosts" / host / "installed").read_text()
        assert "-c constraints-py312.txt " in installed  # uv makes an environment of Python 3.12
    status = cloud.ok("status").stdout
    assert "queued resource: ACTIVE" in status and status.count("psl_jax: running") == 2
    assert "started" in cloud.ok("logs", "--worker=1").stdout
    cloud.ok("stop")
    assert cloud.ok("status").stdout.count("psl_jax: ended 75") == 2
    cloud.ok("delete")
    assert "NONE" in cloud.ok("status").stdout


def test_each_command_may_be_given_again(cloud):
    for _ in range(2):
        cloud.create_and_run(SPOT="0", DRY_RUN="0")
    (created,) = cloud.calls("queued-resources", "create")
    assert "--spot" not in created
    assert len(cloud.starts("host0")) == len(cloud.starts("host1")) == 1
    assert (cloud.folder / "hosts" / "host0" / "pip").read_text() == "installed\n"
    cloud.ok("stop")
    cloud.ok("stop")
    cloud.ok("delete")
    assert "is not there" in cloud.ok("delete").stderr


def test_supervise_brings_a_preempted_run_to_its_end(cloud):
    """Preempted twice; a fifth of all calls fail, half of them after what was asked was done."""
    cloud.plan(
        seed=1,
        failing=0.2,
        preempt_after=[8, 9],
        statuses={"host0": ["sleep", "sleep", 0], "host1": ["sleep", "sleep", 0]},
    )
    done = cloud.ok("supervise", "--spot", *AWKWARD)
    assert "the run is over" in done.stderr
    starts = cloud.starts()
    assert len(starts) == 3 == len(cloud.starts("host1"))
    assert all(start["argv"][4:] == AWKWARD for start in starts)
    assert json.loads((cloud.folder / "created.json").read_text()) == 3


@pytest.mark.parametrize(
    ("statuses", "ends", "starts"),
    [
        ({"host0": [75, 0], "host1": [75, 0]}, 0, 2),  # told to end
        ({"host0": [134, 0], "host1": [137, 0]}, 0, 2),  # one was killed, the other left
        ({"host0": [75], "host1": [2]}, 2, 1),  # a setting is wrong: so it will be again
        ({"host0": [75], "host1": [75]}, 1, 3),  # in vain
    ],
)
def test_what_is_started_again(cloud, statuses, ends, starts):
    cloud.plan(statuses=statuses)
    done = cloud("supervise", "--max_restarts=2", "--config=x")
    assert done.returncode == ends, done.stderr
    assert len(cloud.starts("host0")) == len(cloud.starts("host1")) == starts
    if ends == 2:
        assert "failed with status 2" in done.stderr and "started" in done.stdout


def test_what_was_mended_or_is_new_is_started(cloud):
    """What an earlier command came to is no answer to this one, unless it is the same and over."""
    cloud.plan(statuses={"host0": [2, 0, 0], "host1": [75, 0, 0]})
    assert cloud("supervise", "--config=x").returncode == 2
    for arguments, starts in ((["--config=x"], 2), (["--config=x"], 2), (["--config=y"], 3)):
        assert "the run is over" in cloud.ok("supervise", *arguments).stderr
        assert len(cloud.starts("host0")) == len(cloud.starts("host1")) == starts
    assert cloud.starts("host1")[-1]["argv"][-1] == "--config=y"


def test_another_run_is_let_alone(cloud):
    cloud.create_and_run()
    done = cloud("supervise", "--config=y")
    assert done.returncode == 1 and "another run goes on on psl" in done.stderr
    assert cloud.ok("status").stdout.count("psl_jax: running") == 2


def test_a_host_that_missed_the_start_is_started(cloud):
    cloud.plan(statuses={"host1": [0]})
    cloud.create_and_run()
    shutil.rmtree(cloud.folder / "hosts" / "host1" / "psl_jax_run")
    with cloud.begin("supervise", "--config=x") as supervisor:
        cloud.wait_for_starts(2, "host1")
        supervisor.kill()
    assert len(cloud.starts("host0")) == 1


def test_a_preemption_while_installing(cloud):
    cloud.plan(preempt_after=[1], statuses={"host0": [0], "host1": [0]})
    done = cloud.ok("supervise", "--config=x", RETRIES="2")
    assert "installing on psl failed" in done.stderr and "the run is over" in done.stderr
    assert json.loads((cloud.folder / "created.json").read_text()) == 2


def test_a_cloud_that_does_not_answer_for_long(cloud):
    cloud.plan(statuses={"host0": [0], "host1": [0]})
    (cloud.folder / "bin" / "gcloud").rename(cloud.folder / "bin" / "real")
    cloud.write_gcloud(
        "echo call >> $FAKE_CLOUD/count\n"
        "[ $(wc -l < $FAKE_CLOUD/count) -gt 5 ] || { echo UNAVAILABLE >&2; exit 1; }\n"
        'exec real "$@"\n'
    )
    assert cloud("create", RETRIES="1").returncode == 1
    assert "the run is over" in cloud.ok("supervise", "--config=x", RETRIES="1").stderr


def test_lasting_errors_are_not_tried_again(cloud):
    cloud.write_gcloud(
        "echo call >> $FAKE_CLOUD/count\n"
        "case $* in *describe*) echo NOT_FOUND: psl >&2 ;; *) echo 'NOT_FOUND: v6e-8' >&2 ;; esac\n"
        "exit 1\n"
    )
    done = cloud("create")
    assert done.returncode == 1
    assert "NOT_FOUND: v6e-8" in done.stderr and "psl cannot be created" in done.stderr
    assert "NOT_FOUND: psl" not in done.stderr
    assert len((cloud.folder / "count").read_text().splitlines()) == 3  # one look, one try, a look


@pytest.mark.parametrize(
    "words", ["gcloud: command not found", "The [x] resource is not properly specified"]
)
def test_a_gcloud_that_cannot_work_is_not_waited_for(cloud, words):
    cloud.write_gcloud(f"echo '{words}' >&2; exit 1\n")
    done = cloud("supervise", "--config=x")
    assert done.returncode == 1 and words in done.stderr


@pytest.mark.parametrize(
    "command", ["create", "install", "run", "supervise", "stop", "delete", "ssh"]
)
def test_a_dry_run_calls_nothing(cloud, command):
    arguments = AWKWARD if command in ("run", "supervise") else []
    done = cloud.ok(command, "--dry_run", *arguments)
    assert "gcloud --quiet compute tpus " in done.stderr and not cloud.calls()


@pytest.mark.parametrize("name", ["NAME", "ZONE", "ACCELERATOR", "VERSION"])
def test_what_is_missing_is_named(cloud, name):
    done = cloud("create", **{name: ""})
    assert done.returncode != 0 and not cloud.calls("queued-resources", "create")
    assert f"--{name.lower()} or {name} is missing" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "usage: "),
        (["fly"], "usage: "),
        (["run"], "run needs arguments"),
        (["stop", "now"], "stop: unknown argument 'now'"),
        (["run", "--env", "A B"], "--env is 'A B', expected KEY=VALUE"),
        (["create", "--zone"], "--zone needs a value"),
        (["supervise", "--spot", "--config=x", "-h"], ""),
        (["supervise", "--spott", "--config=x"], "unknown option '--spott' of psl-jax main"),
        (["run", "--config=x", "--nostart_afresh"], "unknown option '--nostart_afresh' of psl-jax"),
        (["run", "-config=x"], "unknown option '-config=x' of psl-jax main"),
        (["run", "--config=x", "--split=eval"], "unknown option '--split=eval' of psl-jax main"),
        (["supervise", "--config=x", "train.max_steps=3"], "'train.max_steps=3' is no option of"),
        (["supervise", "--config=x", "--config.seed", "7"], "expected a value, as --config.seed="),
        (["supervise", "--max_restarts=x", "--config=x"], "--max_restarts is 'x', expected a"),
        (["run", "--command=relabl", "m"], "there is no command relabl"),
        (["create", "--spott"], "create: unknown argument '--spott'"),
    ],
)
def test_help_and_unknown_options_call_nothing(cloud, arguments, told):
    done = cloud(*arguments)
    assert done.returncode == (2 if told else 0) and told in done.stderr and not cloud.calls()
    assert bool(told) != done.stdout.startswith("A TPU VM")


@pytest.mark.parametrize(
    ("module", "word", "option"),
    [
        (relabel, "--command=relabel", "--segment_seconds"),
        (main, "--config.seed=1", "--process_id"),
    ],
)
def test_every_option_of_a_program_is_known(cloud, capsys, module, word, option):
    with pytest.raises(SystemExit):
        module.parse(["program", "--help"])
    options = re.findall(r"^  (--[a-z_]+)", capsys.readouterr().out, re.MULTILINE)
    assert option in options
    cloud.ok("run", "--dry_run", word, *options)


def test_relabeling_by_all_hosts(cloud):
    cloud.plan(statuses={"host0": [0], "host1": [0]})
    command = [places.ROOT / "launch" / "relabel.sh", "my model", "data", "--out=labels"]
    done = programs.run(command, cloud.environment())
    assert done.returncode == 0, done.stderr
    expected = ["-m", "psl_jax", "relabel", "--distributed", "my model", "data", "--out=labels"]
    assert [start["argv"] for start in cloud.starts("host1")] == [expected]
