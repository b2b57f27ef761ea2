"""Several processes at once, started as users start them; and what they do together."""

import itertools
import signal
import socket
import subprocess

import forked_python
import jax
import numpy as np
import places
import programs
import pytest
from serving import wait_for
from synthetic_data import MemorySource, make_index

from psl_jax.audio.segments import Segmentation
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.runtime import distributed
from psl_jax.runtime.errors import UserError
from psl_jax.scoring import relabeling
from psl_jax.scoring.relabeling import TeacherIdentity

# The beginning of programs of two processes.
BEGIN = """
import os, signal, sys, time
import numpy as np
from psl_jax.runtime import cli_entry, distributed, parallel, peers, run_files
address, process = sys.argv[1], int(sys.argv[2])
"""

# Process 1 comes late to the barrier, then each fills in its rows of a matrix. Last, each takes
# another folder for that of the run.
TOGETHER = """
distributed.join_processes(True, address, 2, process)
time.sleep(2 * process)
came = time.monotonic()
parallel.wait_for_all("test")
parallel.wait_for_all("test")
went = time.monotonic()
rows = np.full((3 - process, 3), process + 0.1, np.float32)
gathered = parallel.gather_rows(rows, [3, 2])
assert gathered.dtype == np.float32 and gathered.shape == (5, 3)
assert (gathered[:3] == np.float32(0.1)).all() and (gathered[3:] == np.float32(1.1)).all(), gathered
print("times", came, went)
folder = run_files.claim_folder(sys.argv[3 + process], "--workdir")
cli_entry.run(lambda _: folder.__enter__())
"""

# Process 1 is killed while process 0 waits for it, and no device does.
ALONE = """
distributed._HEARTBEAT_SECONDS, peers._SILENCE, peers._BETWEEN_SIGNS = 16, 5, 1
distributed.join_processes(True, address, 2, process)
time.sleep(3)
if process == 1:
    os.kill(os.getpid(), signal.SIGKILL)
parallel.wait_for_all("test")
"""

# The processes differ in a setting.
UNLIKE = """
settings = {"learning_rate": (1e-3, 1e-5)[process], "seed": 0}
cli_entry.run(lambda _: distributed.join_processes(True, address, 2, process, settings))
"""

CLAIM = """
import sys
from psl_jax.runtime import run_files
with run_files.claim_folder(sys.argv[1], "--out"):
    print("claimed", flush=True)
    sys.stdin.read()
"""


def launch(workdir, *arguments):
    command = [places.ROOT / "launch" / "local_processes.sh", "2", "--workdir", workdir, *arguments]
    return programs.run(command, {"PYTHON": forked_python.path(), "LOGS": str(workdir)})


def test_launcher_runs_both_processes_to_the_end(tmp_path):
    clips = {"full_clips": 12, "balanced_clips": 6, "eval_clips": 6}
    settings = [f"--config.data.{name}={value}" for name, value in clips.items()]
    done = launch(tmp_path, "--config=configs/quickstart.py", "--stage=prepare", *settings)
    assert done.returncode == 0, done.stderr
    assert "full: 12 of 12 clips" in done.stdout
    assert "clips" not in (tmp_path / "local_processes_1.log").read_text()  # told once
    assert len(list(tmp_path.glob("data/soundscapes/*/1.0.0/dataset_info.json"))) == 1


def test_a_failing_process_ends_the_others_at_once(tmp_path):
    failed = launch(tmp_path, "--config=configs/own_data.py")  # only process 0 looks at the data
    assert failed.returncode == 2
    assert "error: data.source_dir is empty" in failed.stderr
    assert "Traceback" not in failed.stderr


def both(code, *arguments):
    """Runs BEGIN and `code` in two processes: their statuses and outputs."""
    command = [forked_python.path(), "-c", BEGIN + code, programs.free_address()]
    started = [programs.start([*command, str(number), *arguments]) for number in range(2)]
    outputs = [process.communicate(timeout=programs.TIMEOUT) for process in started]
    return [process.returncode for process in started], outputs


def test_a_signal_ends_who_waits_for_the_others():
    code = (
        "import sys; from psl_jax.runtime import distributed, interrupts\n"
        "interrupts.install_handlers(); distributed.join_processes(True, sys.argv[1], 2, 0)"
    )
    host, port = programs.free_address().split(":")

    def is_listening():
        with socket.socket() as other:
            return other.connect_ex((host, int(port))) == 0 or process.poll() is not None

    with programs.start([forked_python.path(), "-c", code, f"{host}:{port}"]) as process:
        wait_for(is_listening, programs.TIMEOUT)
        process.terminate()
        process.communicate(timeout=programs.TIMEOUT)
    assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize("is_first", [True, False])
def test_a_port_in_use_is_named(monkeypatch, is_first):
    monkeypatch.setattr(distributed, "_GREETING_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port}.* with another port"):
            distributed.join_processes(True, f"127.0.0.1:{port}", 2, 0 if is_first else 1)


def test_barrier_gather_and_folders_that_are_not_shared(tmp_path):
    statuses, outputs = both(TOGETHER, str(tmp_path / "a"), str(tmp_path / "b"))
    told = f"--workdir={tmp_path}/b is another folder in process 1 than in process 0"
    assert statuses == [2, 2] and all(told in err for _, err in outputs), outputs
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] in ([], [".lock"])
    times = [out.rpartition("times")[2].split() for out, _ in outputs]
    assert max(float(came) for came, _ in times) <= min(float(went) for _, went in times)


def test_who_waits_for_a_dead_process_says_so_and_ends():
    statuses, outputs = both(ALONE)
    assert statuses[1] == -signal.SIGKILL and statuses[0] in (75, -signal.SIGABRT), outputs
    assert "process 1 of 2 has not been heard of for 5 s" in outputs[0][1]


def test_processes_with_different_settings_end_and_name_one():
    statuses, outputs = both(UNLIKE)
    assert statuses == [2, 2], outputs
    told = "learning_rate: 0.001 in process 0, 1e-05 in process 1"
    assert all(told in err and "seed" not in err for _, err in outputs), outputs


def test_a_folder_belongs_to_one_run_until_it_ends(tmp_path):
    def start():
        command = [forked_python.path(), "-c", CLAIM, tmp_path]
        return programs.start(command, stdin=subprocess.PIPE)

    with start() as first:
        assert first.stdout.readline() == "claimed\n"
        with start() as second:
            _, told = second.communicate("", timeout=programs.TIMEOUT)
        assert "another run is working in" in told and "another --out" in told
        first.kill()
    with start() as third:
        assert third.communicate("", timeout=programs.TIMEOUT)[0] == "claimed\n"
    assert not list(tmp_path.iterdir())


class NumberingScorer:
    """Stands for a teacher: the scores of a segment say which it is."""

    def fitting(self, batch_size, seconds):
        return batch_size

    def __call__(self, batches):
        for batch in batches:
            real = batch["weight"] > 0
            rows = {name: value[real] for name, value in batch.items()}
            yield rows, (rows["clip"] + rows["segment"] / 2)[:, None] / np.full(3, 16, np.float32)


@pytest.mark.parametrize("first", [0, 1])
def test_processes_share_out_shards_whoever_is_first(monkeypatch, tmp_path, first):
    index = make_index([2, 3, 0, 1, 4], 400)
    segmentation = Segmentation(200 / 16000)
    sent = []  # by process 0, before anybody writes
    monkeypatch.setattr(distributed, "exchange", lambda own: sent.append(own) or sent)
    for process in (first, 1 - first):  # the second finds the shards of the first written
        monkeypatch.setattr(relabeling.jax, "process_index", lambda process=process: process)
        monkeypatch.setattr(relabeling.jax, "process_count", lambda: 2)
        relabeling.relabel(
            NumberingScorer(),
            MemorySource(index),
            segmentation,
            tmp_path,
            teacher=TeacherIdentity("digest"),
            batch_size=4,
        )
    labels = SoftLabels.open(tmp_path, index, segmentation)
    expected = (np.arange(10)[:, None] + np.array([0, 0.5])) / 16
    np.testing.assert_array_equal(labels.gather(np.arange(10))[..., 0], expected)


def test_what_is_missing_falls_to_all_processes_alike(monkeypatch):
    """Not by the shards' numbers: those that a dead process left are all of one remainder."""
    left = list(range(3, 64, 8))  # of process 3 of 8
    shares = []
    monkeypatch.setattr(jax, "process_count", lambda: 8)
    for process in range(8):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        shares.append(relabeling.deal_shards(left))
    assert sorted(itertools.chain.from_iterable(shares)) == left
    assert {len(share) for share in shares} == {1}


def test_incomplete_addresses_are_errors():
    with pytest.raises(UserError, match="got --num_processes: expected --distributed with"):
        distributed.join_processes(True, num_processes=2)
    with pytest.raises(UserError, match=r"--process_id=2, expected 0 to one less than .*=2"):
        distributed.join_processes(True, "127.0.0.1:9", 2, 2)
    with pytest.raises(UserError, match="got --process_id: expected --distributed"):
        distributed.join_processes(False, process_id=1)
    with pytest.raises(UserError, match="expected HOST:PORT"):
        distributed.join_processes(True, "localhost", 2, 1)
