"""A relabeling that is killed at random, again and again, ends with the same shards.

PSL_JAX_KILLS says how often (default: 3).
"""

import itertools
import os
import random
import signal
import subprocess
import sys
import time

import places
import pytest
import synthetic_data

from psl_jax.networks import mobilenetv2
from psl_jax.networks.trained_model import ModelInfo
from psl_jax.weights import orbax_folder

KILLS = int(os.environ.get("PSL_JAX_KILLS", "3"))
SHARDS = 3 * KILLS + 6
TIMEOUT = 400  # seconds; a loaded machine is no failure


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Starts `relabel` into a folder."""
    blocks = ((1, 16, 1, 1), (6, 24, 1, 2), (6, 96, 1, 2))  # of small_relabel.py
    monkeypatch.setattr(mobilenetv2, "INVERTED_RESIDUALS", blocks)
    index = synthetic_data.make_index([3] * SHARDS, 16_000, split="train")
    (tmp_path / "data").mkdir()
    audio = synthetic_data.make_audio(index)
    synthetic_data.write_prepared(tmp_path / "data", index, audio, "train")
    _, variables = mobilenetv2.create(3, 0.1, seed=3)
    info = ModelInfo(index.classes, 0.1, 0.5, name="teacher")
    orbax_folder.save_model(tmp_path / "model", variables, info.as_json())

    def start(out):
        return subprocess.Popen(
            [
                *(sys.executable, places.HELPERS / "small_relabel.py", tmp_path / "model"),
                *(tmp_path / "data", "--split=train", "--segment_seconds=0.5"),
                *(f"--out={out}", "--batch_size=4", "--num_devices=1"),
            ],
            env=os.environ | {"PYTHONPATH": str(places.ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def whole_shards(out):
    return {path.name: path.stat().st_mtime_ns for path in out.glob("labels-*")}


def test_killed_at_random_it_ends_with_the_same_shards(command, tmp_path):
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "killed"
    started = time.monotonic()
    done = command(undisturbed)
    told, _ = done.communicate(timeout=TIMEOUT)
    whole = time.monotonic() - started
    assert done.returncode == 0, told

    rng = random.Random(7)
    kept = []  # shards that were whole at each death
    for kill in range(KILLS):
        process = command(out)
        if kill % 3 == 2:  # at any time, mostly while it starts
            time.sleep(rng.uniform(0, whole / 2))
        else:  # while it writes: some shards later, and a moment after that
            wanted = len(whole_shards(out)) + rng.randint(1, 3)
            end = time.monotonic() + TIMEOUT
            while len(whole_shards(out)) < wanted and process.poll() is None:
                assert time.monotonic() < end
                time.sleep(0.0005)
            time.sleep(rng.uniform(0, 0.01))
        before = process.poll()
        process.kill()
        told, _ = process.communicate(timeout=TIMEOUT)
        if before is None:
            assert process.returncode == -signal.SIGKILL, told
        kept.append(whole_shards(out))
    # Several died while shards were written, and no whole one was written again.
    assert sum(0 < len(found) < SHARDS for found in kept) >= KILLS // 2, list(map(len, kept))
    for earlier, later in itertools.pairwise(kept):
        assert earlier.items() <= later.items()

    last = command(out)
    told, _ = last.communicate(timeout=TIMEOUT)
    assert last.returncode == 0, told
    assert kept[-1].items() <= whole_shards(out).items()
    names = sorted(path.name for path in undisturbed.iterdir())
    assert sorted(path.name for path in out.iterdir()) == names and len(names) == SHARDS + 2
    for name in names:
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes(), name
    print(f"\n{KILLS} kills; whole shards of {SHARDS} after each: {list(map(len, kept))}")
