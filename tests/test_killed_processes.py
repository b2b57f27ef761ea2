"""Two processes train, one is killed, both are started again: as if nothing had happened."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import places
import synthetic_data
from small_suite import CONFIG

ROOT = places.ROOT
TIMEOUT = 400  # seconds; a loaded machine is no failure


class Together:
    """Runs the suite in two processes."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "config.py").write_text(CONFIG)
        for seed, split in enumerate(("balanced", "eval")):
            index = synthetic_data.make_index([4, 3, 2], 32_000, split=split, first=100 * seed)
            audio = synthetic_data.make_audio(index, seed)
            synthetic_data.write_packed(folder / f"{split}.npz", index, audio)

    def run(self, workdir, die_at="", dies=1):
        """Exit statuses; process number `dies` dies at `die_at`, and the other one is ended."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        started = [
            subprocess.Popen(
                [
                    *(sys.executable, ROOT / "tests" / "small_main.py"),
                    *("--config", self.folder / "config.py", "--workdir", workdir),
                    *(f"--config.data.data_dir={self.folder}", "--distributed"),
                    "--config.train.checkpoint_every=2",
                    *(f"--coordinator_address={address}", "--num_processes=2"),
                    f"--process_id={process}",
                ],
                env=os.environ
                | {"PYTHONPATH": str(ROOT), "DIE_AT": die_at if process == dies else ""},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for process in range(2)
        ]
        if die_at:
            started[dies].communicate(timeout=TIMEOUT)
            started[1 - dies].kill()  # as launch/local_processes.sh and a cluster do
        outputs = [process.communicate(timeout=TIMEOUT) for process in started]
        statuses = [process.returncode for process in started]
        assert die_at or statuses == [0, 0], outputs
        return statuses


def results(folder):
    """What the runs came to, but for times."""
    found = json.loads((folder / "results.json").read_text())
    for experiment in found["experiments"]:
        del experiment["seconds"]
    logs = {
        name: [
            {k: v for k, v in json.loads(line).items() if k in ("step", "loss", "val_mAP")}
            for line in (folder / name / "train_log.jsonl").read_text().splitlines()
        ]
        for name in ("teacher", "psl2s")
    }
    return found, logs


def test_two_processes_are_killed_in_training_and_in_relabeling(tmp_path):
    together = Together(tmp_path)
    together.run(tmp_path / "undisturbed")
    killed = tmp_path / "killed"
    assert together.run(killed, "batch 7", dies=1)[1] == -9
    assert not (killed / "teacher" / "stages.json").exists()  # it died in training
    assert together.run(killed, "shard 0", dies=0)[0] == -9
    assert not (killed / "results.json").exists()
    together.run(killed)
    assert results(killed) == results(tmp_path / "undisturbed")
    for name in ("teacher", "psl2s"):
        scores = [
            np.load(folder / name / "scores.npz")["scores"]
            for folder in (killed, tmp_path / "undisturbed")
        ]
        np.testing.assert_array_equal(*scores)
