"""Preparations that are killed anywhere and started again, and data sets that lost a file.

PSL_JAX_KILLS says how often one is killed at random (default: 3), PSL_JAX_CLIPS of how many clips.
"""

import dataclasses
import json
import os
import pathlib
import random
import shutil
import time

import audio_files
import pytest
import small_prepare
from prepared_data import config

from psl_jax.data import split_index_files
from psl_jax.preparing.prepare_corpus import prepare
from psl_jax.runtime.errors import UserError

KILLS = int(os.environ.get("PSL_JAX_KILLS", "3"))
CLIPS = int(os.environ.get("PSL_JAX_CLIPS", "60"))
TIMEOUT = 300  # seconds; a loaded machine is no failure


def write_source(folder: pathlib.Path, clips: int, splits=("train",)) -> dict:
    """A folder of short clips, one of them damaged; the settings of its preparation."""
    for split in splits:
        names = [f"{split}{number:04d}.wav" for number in range(clips)]
        for number, name in enumerate(names):
            audio_files.write(folder / name, audio_files.int16_noise(3_000, seed=number))
        audio_files.truncate(folder / names[1])
        rows = [(name, "dog;cat"[: 3 + 4 * (i % 2)]) for i, name in enumerate(names)]
        audio_files.write_table(folder / f"{split}.csv", "filename,labels", rows)
    return dataclasses.asdict(config(source_dir=str(folder)))


def contents(root: pathlib.Path) -> dict[str, bytes]:
    """All files below a folder but the time in the report."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.name != ".lock":
            found[str(path.relative_to(root))] = path.read_bytes()
            if path.name == "report.json":
                report = json.loads(path.read_text()) | {"made": ""}
                found[str(path.relative_to(root))] = json.dumps(report).encode()
    return found


def kept_clips(root: pathlib.Path, everything: set[str]) -> set[str]:
    """Clips of the shards that are whole."""
    if list(root.glob("data/*/*/1.0.0")):
        return everything
    told = [json.loads(path.read_text()) for path in root.rglob("*.parts/*.json")]
    return {clip[0] for part in told for clip in part["clips"]}


def finish(process) -> None:
    process.join(TIMEOUT)
    assert process.exitcode == 0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(settings, folder, number of changes) of a preparation of two splits of four clips."""
    root = tmp_path_factory.mktemp("undisturbed")
    data = write_source(root / "source", 4, ("train", "valid"))
    finish(small_prepare.start(data, root / "whole", root / "log"))
    assert len(small_prepare.loaded(root / "log")) == 8
    return data, root / "whole", int(pathlib.Path(f"{root / 'log'}.changes").read_text())


def test_killed_before_any_change_of_the_disk_it_ends_the_same(undisturbed, tmp_path):
    data, whole, changes = undisturbed
    expected = contents(whole)
    assert changes > 15 and len([name for name in expected if "tfrecord" in name]) == 4
    ids = {name.removesuffix(".wav") for name in small_prepare.loaded(whole.parent / "log")}
    for change in range(1, changes + 1):
        root, log = tmp_path / str(change), tmp_path / f"log{change}"
        dying = small_prepare.start(data, root, log, die_at=change)
        dying.join(TIMEOUT)
        assert dying.exitcode == -9, change
        kept, before = kept_clips(root, ids), len(small_prepare.loaded(log))
        finish(small_prepare.start(data, root, log))
        again = {name.removesuffix(".wav") for name in small_prepare.loaded(log)[before:]}
        assert not kept & again, change
        assert contents(root) == expected, change


def test_killed_at_random_no_clip_of_a_whole_shard_is_loaded_twice(tmp_path):
    data = write_source(tmp_path / "source", CLIPS)
    size = max(CLIPS // 20, 2)
    finish(small_prepare.start(data, tmp_path / "whole", tmp_path / "l", clips_per_shard=size))
    root, log, rng = tmp_path / "killed", tmp_path / "log", random.Random(5)
    kept: list[set[str]] = []
    for kill in range(KILLS):
        process = small_prepare.start(data, root, log, pause=0.01, clips_per_shard=size)
        wanted = max(CLIPS * (kill + 1) // (KILLS + 1), 1 + len(kept[-1]) if kept else 0)
        end = time.monotonic() + TIMEOUT
        while len(set(small_prepare.loaded(log))) < wanted and process.is_alive():
            assert time.monotonic() < end
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        process.kill()
        process.join(TIMEOUT)
        assert process.exitcode == -9
        kept.append(kept_clips(root, set()))
        before = len(small_prepare.loaded(log))
    assert kept[-1] and kept[0] < kept[-1]
    finish(small_prepare.start(data, root, log, clips_per_shard=size))
    assert contents(root) == contents(tmp_path / "whole")
    names = [name.removesuffix(".wav") for name in small_prepare.loaded(log)]
    assert not kept[-1] & set(names[before:])
    twice = len(names) - len(set(names))
    assert set(names) == {f"train{number:04d}" for number in range(CLIPS)}
    print(
        f"\n{KILLS} kills of {CLIPS} clips in shards of {size}: {twice} clips loaded again; whole "
        f"after each kill: {list(map(len, kept))}"
    )


def test_other_rows_are_not_taken_for_those_of_a_whole_shard(undisturbed, tmp_path):
    """Recordings can come while a preparation is interrupted."""
    data, _, changes = undisturbed
    folder = shutil.copytree(data["source_dir"], tmp_path / "source")
    data = data | {"source_dir": str(folder)}
    dying = small_prepare.start(data, tmp_path / "run", tmp_path / "log", die_at=changes // 2)
    dying.join(TIMEOUT)
    (told, *_) = sorted((tmp_path / "run").rglob("*.parts/*.json"))
    found = json.loads(told.read_text())
    told.write_text(json.dumps(found | {"rows": "other"}))
    finish(small_prepare.start(data, tmp_path / "run", tmp_path / "log"))
    names = small_prepare.loaded(tmp_path / "log")
    assert all(names.count(f"{clip[0]}.wav") == 2 for clip in found["clips"])
    finish(small_prepare.start(data, tmp_path / "new", tmp_path / "log2"))
    assert contents(tmp_path / "run") == contents(tmp_path / "new")


def test_what_is_lost_is_named_with_a_remedy(undisturbed, tmp_path):
    data, whole, _ = undisturbed
    root = shutil.copytree(whole, tmp_path / "copy")
    folder = pathlib.Path(split_index_files.find_data_dir(root / "data"))
    for path in (sorted(folder.glob("*-train.tfrecord-*"))[1], folder / "dataset_info.json"):
        path.unlink()
        told = rf"{path.name}.* delete the data set's folder and prep"
        with pytest.raises(UserError, match=told):
            prepare(config(**data), root)
    shutil.rmtree(folder)
    assert prepare(config(**data), root) == str(folder)
