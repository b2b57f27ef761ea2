"""A run that is killed in each of its stages, and started again, against an undisturbed one."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import places
import pytest
import synthetic_data
from small_suite import CONFIG

ROOT = places.ROOT


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Runs the suite in a work folder, dying where it is told: the finished process."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "config.py").write_text(CONFIG)
    for seed, split in enumerate(("balanced", "eval")):
        index = synthetic_data.make_index([4, 3], 32_000, split=split)
        audio = synthetic_data.make_audio(index, seed)
        synthetic_data.write_prepared(folder, index, audio)

    shutil.copytree(folder, tmp_path_factory.getbasetemp() / "moved")

    def run(workdir, die_at="", *changes, data=folder):
        arguments = ("--config", folder / "config.py", "--workdir", workdir)
        return subprocess.run(
            [
                *(sys.executable, places.HELPERS / "small_main.py", *arguments),
                f"--config.data.data_dir={data}",
                *changes,
            ],
            env=os.environ | {"PYTHONPATH": str(ROOT), "DIE_AT": die_at},
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture(scope="module")
def undisturbed(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    done = command(folder)
    assert done.returncode == 0, done.stderr
    return folder


def losses(folder, name):
    lines = (folder / name / "train_log.jsonl").read_text().splitlines()
    return {line["step"]: line["loss"] for line in map(json.loads, lines) if "loss" in line}


def arrays(path):
    if path.suffix == ".npy":
        return {path.name: np.load(path)}
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def assert_same_arrays(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)


def test_killed_in_every_stage(command, undisturbed, tmp_path, tmp_path_factory):
    """One run that dies four times; after each death the same command goes on."""

    def die(where, *changes, **settings):
        died = command(tmp_path, where, *changes, **settings)
        assert died.returncode == -signal.SIGKILL, died.stderr

    die("batch 5")  # while the teacher is trained
    assert 1 <= max(losses(tmp_path, "teacher")) < 5
    assert not (tmp_path / "teacher" / "averaged").exists()

    die("shard 1")  # while the teacher relabels: one of two shards is there
    labels = tmp_path / "psl2s" / "soft_labels"
    (first,) = labels.glob("labels-*")
    written = [path.stat().st_mtime_ns for path in (tmp_path / "teacher" / "metrics.json", first)]

    # What is no part of the computation may change between two starts: data that moved, workers,
    # when to save.
    moved = tmp_path_factory.getbasetemp() / "moved"
    changes = ("--config.train.checkpoint_every=2", "--config.data.num_workers=3")
    die("batch 9", *changes, data=moved)  # while the student is trained
    assert first.stat().st_mtime_ns == written[1] and len(list(labels.glob("labels-*"))) == 2

    die("file psl2s/metrics.json")  # while the student is evaluated
    trained = (tmp_path / "psl2s" / "train_log.jsonl").read_text()

    done = command(tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "teacher" / "metrics.json").stat().st_mtime_ns == written[0]
    assert (tmp_path / "psl2s" / "train_log.jsonl").read_text() == trained

    for name in ("teacher", "psl2s"):
        assert losses(tmp_path, name) == losses(undisturbed, name)
        ours, theirs = (folder / name for folder in (tmp_path, undisturbed))
        assert_same_arrays(arrays(ours / "scores.npz"), arrays(theirs / "scores.npz"))
        assert (ours / "metrics.json").read_text() == (theirs / "metrics.json").read_text()
    for path in (undisturbed / "psl2s" / "soft_labels").glob("labels-*"):
        assert_same_arrays(arrays(labels / path.name), arrays(path))


def test_a_finished_run_is_evaluated_anew_but_not_made_of_other_settings(
    command, undisturbed, tmp_path
):
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    run = folder / "psl2s"
    before = [(run / name).read_text() for name in ("train_log.jsonl", "metrics.json")]
    refused = command(folder, "", "--config.seed=5")
    assert refused.returncode == 2
    assert f"{folder}/teacher was made with other settings" in refused.stderr
    assert "seed: 0 there, 5 now" in refused.stderr

    change = "--config.experiments.psl2s.evaluate.segments=whole"
    done = command(folder, "", change)
    assert done.returncode == 0, done.stderr
    assert "\npsl2s: " not in done.stderr  # no bar of a training
    assert (run / "train_log.jsonl").read_text() == before[0]
    assert (run / "metrics.json").read_text() != before[1]


def test_what_is_of_other_settings_or_another_teacher_is_begun_again_at_a_word(
    command, undisturbed, tmp_path
):
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    kept = folder / "teacher" / "mine.txt"
    kept.write_text("not of a run")
    other = "--config.experiments.teacher.train.learning_rate=0.02"
    assert command(folder, "", other).returncode == 2
    before = losses(folder, "psl2s")
    done = command(folder, "", other, "--start_afresh")
    assert done.returncode == 0, done.stderr
    # The student has the same settings, but its labels were another teacher's.
    for name in ("teacher", "psl2s"):
        assert f"{folder / name} is deleted and begun again" in done.stdout
    assert losses(folder, "psl2s") != before and kept.exists()
    plan = done.stdout.split("== teacher")[0]
    assert "only " in plan and "steps of training (fewer than 200)" in plan
    assert "evaluated on 7 clips only" in plan
    assert re.search(r"teacher .* begun again\npsl2s .* begun again\n", plan)
    again = command(folder, "", other)
    assert again.returncode == 0 and "is deleted" not in again.stdout


def test_what_was_lost_or_damaged_since_is_made_again(command, undisturbed, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    scores = folder / "psl2s" / "scores.npz"
    scores.write_bytes(scores.read_bytes()[:-100])
    (folder / "teacher" / "metrics.json").unlink()
    (folder / "psl2s" / "averaged" / "model.json").unlink()
    done = command(folder)
    assert done.returncode == 0, done.stderr
    for what in ("psl2s/scores.npz", "teacher/metrics.json"):
        assert f"{folder / what} is missing or damaged: evaluate is done again" in done.stdout
    assert "model.json is missing or damaged: average is done again" in done.stdout
    for name in ("teacher", "psl2s"):
        ours, theirs = (place / name for place in (folder, undisturbed))
        assert_same_arrays(arrays(ours / "scores.npz"), arrays(theirs / "scores.npz"))
        assert (ours / "metrics.json").read_text() == (theirs / "metrics.json").read_text()


def test_a_lost_shard_of_labels_is_made_again(command, undisturbed, tmp_path):
    died = command(tmp_path, "batch 14")  # while the student is trained
    assert died.returncode == -signal.SIGKILL, died.stderr
    labels = tmp_path / "psl2s" / "soft_labels"
    lost, *_ = sorted(labels.glob("labels-*"))
    lost.unlink()
    done = command(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "soft_labels is missing or damaged: relabel is done again" in done.stdout
    whole = undisturbed / "psl2s"
    assert_same_arrays(arrays(lost), arrays(whole / "soft_labels" / lost.name))
    assert losses(tmp_path, "psl2s") == losses(undisturbed, "psl2s")


def test_nothing_is_deleted_before_all_is_checked(command, undisturbed, tmp_path):
    """Not a teacher that took days, for a misspelt split of a student."""
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)

    def contents():
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    before = contents()
    other = "--config.experiments.teacher.train.learning_rate=0.02"
    for wrong in ("--config.data.eval_split=evla", "--config.experiments.psl2s.data.eval_split=no"):
        refused = command(folder, "", other, "--start_afresh", wrong)
        assert refused.returncode == 2 and "eval_split is" in refused.stderr
        assert "is deleted" not in refused.stdout and contents() == before


def test_everything_is_checked_before_anything_is_begun(command, tmp_path):
    for change, told in (
        ("--config.experiments.psl2s.teacher=techer", "Did you mean 'teacher'?"),
        ("--config.experiments.psl2s.data.eval_split=test", "config.data.eval_split is 'test'"),
        ("--config.num_devices=99", "num_devices is 99, and there are"),
    ):
        done = command(tmp_path / "run", "", change)
        assert done.returncode == 2 and told in done.stderr, done.stderr
        assert not list((tmp_path / "run").rglob("*.json"))
