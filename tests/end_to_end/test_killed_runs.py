"""A run that is killed in each of its stages, and started again, against an undisturbed one."""

import re
import shutil
import signal

import forked_python
import places
import programs
import pytest
import small_suite
from main_command import call_main

from psl_jax import UserError

pytestmark = pytest.mark.usefixtures("empty_figures")
SAVING = ("--config.train.checkpoint_every=1",)


class Suite:
    """The small suite on its data: in this process, or in one of its own that dies."""

    def __init__(self, folder, moved):
        self.folder, self.moved = folder, moved
        small_suite.write(folder, [4, 3])
        shutil.copytree(folder, moved)

    def arguments(self, workdir, *changes, data=None):
        place = ("--config", self.folder / "config.py", "--workdir", workdir)
        return (*place, f"--config.data.data_dir={data or self.folder}", *changes)

    def run(self, workdir, *changes):
        call_main(*self.arguments(workdir, *changes))

    def die(self, workdir, die_at, *changes, data=None):
        command = (forked_python.path(), places.HELPERS / "small_main.py")
        died = programs.run(
            [*command, *self.arguments(workdir, *(changes or SAVING), data=data)],
            {"PYTHONPATH": str(places.ROOT), "DIE_AT": die_at},
        )
        assert died.returncode == -signal.SIGKILL, died.stderr


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return Suite(tmp_path_factory.mktemp("killed"), tmp_path_factory.getbasetemp() / "moved")


@pytest.fixture(scope="module")
def undisturbed(suite, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    suite.run(folder)
    return folder


def losses(folder, name):
    lines = small_suite.logged((folder / name / "train_log.jsonl").read_text())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def assert_same_results(ours, theirs):
    """Of both experiments: scores, metrics and soft labels."""
    for path in sorted(theirs.glob("*/scores.npz")) + sorted(theirs.glob("*/soft_labels/labels-*")):
        found = ours / path.relative_to(theirs)
        small_suite.assert_same_arrays(found.read_bytes(), path.read_bytes())
    for name in ("teacher/metrics.json", "psl2s/metrics.json"):
        assert (ours / name).read_text() == (theirs / name).read_text()


def test_killed_in_every_stage(suite, undisturbed, tmp_path):
    """One run that dies four times; after each death the same command goes on."""
    suite.die(tmp_path, "batch 5")  # while the teacher is trained
    assert 1 <= max(losses(tmp_path, "teacher")) < 5
    assert not (tmp_path / "teacher" / "averaged").exists()

    suite.die(tmp_path, "shard 1")  # while the teacher relabels: one of two shards is there
    labels = tmp_path / "psl2s" / "soft_labels"
    (first,) = labels.glob("labels-*")
    written = [path.stat().st_mtime_ns for path in (tmp_path / "teacher" / "metrics.json", first)]

    # What is no part of the computation may change between two starts: data that moved, workers,
    # when to save.
    changes = ("--config.train.checkpoint_every=2", "--config.data.num_workers=3")
    suite.die(tmp_path, "batch 5", *changes, data=suite.moved)  # while the student is trained
    assert first.stat().st_mtime_ns == written[1] and len(list(labels.glob("labels-*"))) == 2

    first.unlink()  # a lost shard is made again
    suite.die(tmp_path, "file psl2s/metrics.json")  # while the student is evaluated
    assert first.exists()
    trained = (tmp_path / "psl2s" / "train_log.jsonl").read_text()

    suite.run(tmp_path)
    assert (tmp_path / "teacher" / "metrics.json").stat().st_mtime_ns == written[0]
    assert (tmp_path / "psl2s" / "train_log.jsonl").read_text() == trained

    for name in ("teacher", "psl2s"):
        assert losses(tmp_path, name) == losses(undisturbed, name)
    assert_same_results(tmp_path, undisturbed)


@pytest.fixture
def finished(undisturbed, tmp_path):
    """A copy of a finished run."""
    return shutil.copytree(undisturbed, tmp_path / "run")


OTHER_TEACHER = "--config.experiments.teacher.train.learning_rate=0.02"


def test_a_finished_run_is_evaluated_anew_but_not_made_of_other_settings(suite, finished, capsys):
    run = finished / "psl2s"
    before = [(run / name).read_text() for name in ("train_log.jsonl", "metrics.json")]
    told = rf"{finished}/teacher was made with other settings(?s:.*)seed: 0 there, 5 now"
    with pytest.raises(UserError, match=told):
        suite.run(finished, "--config.seed=5")
    suite.run(finished, "--config.experiments.psl2s.evaluate.segments=whole")
    assert "\npsl2s: " not in capsys.readouterr().err  # no bar of a training
    assert (run / "train_log.jsonl").read_text() == before[0]
    assert (run / "metrics.json").read_text() != before[1]


def test_what_is_of_other_settings_or_another_teacher_is_begun_again_at_a_word(
    suite, finished, capsys
):
    kept = finished / "teacher" / "mine.txt"
    kept.write_text("not of a run")
    with pytest.raises(UserError):
        suite.run(finished, OTHER_TEACHER)
    before = losses(finished, "psl2s")
    suite.run(finished, OTHER_TEACHER, "--start_afresh")
    output = capsys.readouterr().out
    # The student has the same settings, but its labels were another teacher's.
    for name in ("teacher", "psl2s"):
        assert f"{finished / name} is deleted and begun again" in output
    assert losses(finished, "psl2s") != before and kept.exists()
    plan = output.split("== teacher")[0]
    assert "only " in plan and "steps of training (fewer than 200)" in plan
    assert "evaluated on 7 clips only" in plan and "x cpu of 1 process" in plan
    assert re.search(r"teacher .* begun again\npsl2s .* begun again\n", plan)
    suite.run(finished, OTHER_TEACHER)
    assert "is deleted" not in capsys.readouterr().out


def test_what_was_lost_or_damaged_since_is_made_again(suite, undisturbed, finished, capsys):
    scores = finished / "psl2s" / "scores.npz"
    scores.write_bytes(scores.read_bytes()[:-100])
    (finished / "teacher" / "metrics.json").unlink()
    (finished / "psl2s" / "averaged" / "model.json").unlink()
    suite.run(finished)
    output = capsys.readouterr().out
    for what in ("psl2s/scores.npz", "teacher/metrics.json"):
        assert f"{finished / what} is missing or damaged: evaluate is done again" in output
    assert "model.json is missing or damaged: average is done again" in output
    assert_same_results(finished, undisturbed)


def test_nothing_is_deleted_before_all_is_checked(suite, finished, capsys):
    """Not a teacher that took days, for a misspelt split of a student."""

    def contents():
        return {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}

    before = contents()
    for wrong in ("--config.data.eval_split=evla", "--config.experiments.psl2s.data.eval_split=no"):
        with pytest.raises(UserError, match="eval_split is"):
            suite.run(finished, OTHER_TEACHER, "--start_afresh", wrong)
        assert "is deleted" not in capsys.readouterr().out and contents() == before


def test_everything_is_checked_before_anything_is_begun(suite, tmp_path):
    with pytest.raises(UserError, match="Did you mean 'teacher'"):
        suite.run(tmp_path / "run", "--config.experiments.psl2s.teacher=techer")
    assert not list((tmp_path / "run").rglob("*.json"))
