"""Two processes train, one is killed or told to end, both are started again: nothing is lost."""

import json
import re

import forked_python
import places
import programs
import pytest
import small_suite


class Together:
    """Runs the suite in two processes."""

    def __init__(self, folder):
        self.folder = folder
        small_suite.write(folder, [4, 3, 2])

    def run(self, workdir, die_at="", dies=1, by="SIGKILL", ends_other=True):
        """Exit statuses and outputs; process number `dies` dies at `die_at` by a signal.

        ends_other: kills the other one then.
        """
        command = [
            *(forked_python.path(), places.HELPERS / "small_main.py"),
            *("--config", self.folder / "config.py", "--workdir", workdir),
            *(f"--config.data.data_dir={self.folder}", "--distributed", "--num_processes=2"),
            f"--coordinator_address={programs.free_address()}",
        ]
        environment = {"PYTHONPATH": str(places.ROOT), "DIE_BY": by}
        started = [
            programs.start(
                [*command, f"--process_id={process}"],
                environment | {"DIE_AT": die_at if process == dies else ""},
            )
            for process in range(2)
        ]
        if die_at and ends_other:
            started[dies].communicate(timeout=programs.TIMEOUT)
            started[1 - dies].kill()  # as launch/local_processes.sh and a cluster do
        outputs = [process.communicate(timeout=programs.TIMEOUT) for process in started]
        statuses = [process.returncode for process in started]
        assert die_at or statuses == [0, 0], outputs
        return statuses, [out + err for out, err in outputs]


def results(folder):
    """What the runs came to, but for times."""
    found = json.loads((folder / "results.json").read_text())
    for experiment in found["experiments"]:
        del experiment["seconds"]
    logs = (folder / name / "train_log.jsonl" for name in ("teacher", "psl2s"))
    return found, [small_suite.logged(log.read_text()) for log in logs]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    return Together(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def undisturbed(together, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    together.run(folder)
    return folder


def test_two_processes_are_told_to_end_lost_and_killed(together, undisturbed, tmp_path):
    """One run; after each end the same command goes on, and comes to the same."""
    statuses, outputs = together.run(tmp_path, "batch 4", dies=1, by="SIGTERM", ends_other=False)
    assert statuses == [75, 75], outputs
    told = [re.search(r"stopped; teacher, step (\d+) is saved", output) for output in outputs]
    assert told[0] and told[1] and told[0][1] == told[1][1], outputs
    saved = {int(path.name) for path in (tmp_path / "teacher" / "checkpoints").iterdir()}
    assert max(saved) == int(told[0][1]) >= 1

    # Nobody ends process 0 when the other one is gone: it finds out.
    statuses, outputs = together.run(tmp_path, "batch 3", dies=1, ends_other=False)
    assert statuses == [75, -9], outputs
    assert "another process of this run has ended or was killed" in outputs[0]
    assert not (tmp_path / "teacher" / "stages.json").exists()  # it died in training

    assert together.run(tmp_path, "shard 0", dies=0)[0][0] == -9  # in relabeling
    assert not (tmp_path / "results.json").exists()
    together.run(tmp_path)
    assert results(tmp_path) == results(undisturbed)
    for name in ("teacher/scores.npz", "psl2s/scores.npz"):
        scores = ((run / name).read_bytes() for run in (tmp_path, undisturbed))
        small_suite.assert_same_arrays(*scores)
