"""What may change between two starts of a run, and what may not."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from small_experiments import save_model
from synthetic_data import MemorySource, make_index, write_soft_labels

from psl_jax import UserError
from psl_jax.audio.segments import Segmentation
from psl_jax.config import Settings
from psl_jax.data.decision_table import DecisionTable
from psl_jax.data.source import Source
from psl_jax.data.training_order import TrainingOrder
from psl_jax.experiments import run_folder, sanity_notes, setting_checks, suite, suite_results
from psl_jax.experiments.experiment import Experiment
from psl_jax.experiments.run_folder import OtherRunError, RunFolder
from psl_jax.runtime import files, run_files
from psl_jax.runtime.run_files import Stage
from psl_jax.training.settings import TrainSettings


def settings_with(**changes) -> Settings:
    settings = Settings(name="run")
    for name, value in changes.items():
        group, _, key = name.rpartition("__")
        if group:
            value = dataclasses.replace(getattr(settings, group), **{key: value})
        settings = dataclasses.replace(settings, **{group or key: value})
    return settings


def start(folder, **changes) -> RunFolder:
    found = RunFolder(folder, settings_with(**changes))
    found.check_settings()
    found.begin()
    return found


def finish(folder, *stages):
    files.write_json(folder / "stages.json", {name: {"seconds": 1.0} for name in stages})


def kept(folder, *names):
    value = json.loads((folder / "config.json").read_text())
    for name in names:
        value = value[name]
    return value


def test_operational_settings_may_change_and_the_last_are_kept(tmp_path):
    start(tmp_path)
    changes = {"data__data_dir": "/elsewhere", "data__num_workers": 3}
    start(tmp_path, **changes, train__checkpoint_every=5, train__log_every=7)
    assert kept(tmp_path, "train", "log_every") == 7
    assert kept(tmp_path, "data", "data_dir") == "/elsewhere"


def test_a_scientific_setting_is_refused_by_name(tmp_path):
    start(tmp_path)
    with pytest.raises(UserError, match=r"other settings:\n  model\.width: 1\.0 there, 0\.5 now"):
        start(tmp_path, model__width=0.5, train__log_every=3)
    assert kept(tmp_path, "model", "width") == 1.0 and kept(tmp_path, "train", "log_every") == 20


def test_finished_stages_without_their_settings_are_refused(tmp_path):
    start(tmp_path)
    finish(tmp_path, "train")
    (tmp_path / "config.json").unlink()
    with pytest.raises(OtherRunError, match=r"config\.json is gone"):
        start(tmp_path, seed=1)


def test_a_setting_that_the_folder_does_not_know_had_its_default(tmp_path):
    start(tmp_path)
    older = kept(tmp_path)
    del older["train"]["sampling"], older["relabel"], older["evaluate"]["segments"]
    files.write_json(tmp_path / "config.json", older)
    start(tmp_path)
    with pytest.raises(UserError, match=r"train\.sampling: 'uniform' there, 'balanced' now"):
        start(tmp_path, train__sampling="balanced")


def test_an_evaluation_setting_evaluates_anew_but_does_not_train(tmp_path):
    start(tmp_path)
    finish(tmp_path, "train", "average", "evaluate", "report")
    assert set(start(tmp_path).finished) == {"train", "average", "evaluate", "report"}
    assert set(start(tmp_path, evaluate__segments="whole").finished) == {"train", "average"}


def test_validation_evaluates_alike_until_training_is_finished(tmp_path):
    start(tmp_path)
    start(tmp_path, data__eval_split="test")  # no part of a training
    with pytest.raises(UserError, match=r"evaluate\.segments: 'training' there, '2' now"):
        start(tmp_path, evaluate__segments="2", data__eval_split="test")


@pytest.mark.parametrize("left", range(6))
def test_a_deletion_that_was_interrupted_leaves_nothing_finished(tmp_path, monkeypatch, left):
    start(tmp_path)
    finish(tmp_path, "train", "average", "evaluate", "report")
    for name in ("metrics.json", "report.html"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "one").write_text("")
    deleted = []

    def killed_before(delete):
        def wrapper(path, *args, **kwargs):
            if path.exists():
                if len(deleted) == left:
                    raise KeyboardInterrupt
                deleted.append(path)
            delete(path, *args, **kwargs)

        return wrapper

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "unlink", killed_before(pathlib.Path.unlink))
        patch.setattr(run_folder, "remove_tree", killed_before(run_folder.remove_tree))
        afresh = RunFolder(tmp_path, settings_with(seed=1), afresh=True)
        with pytest.raises(KeyboardInterrupt):
            afresh.begin()
    again = RunFolder(tmp_path, settings_with(seed=1))
    again.check_settings()
    assert not again.finished
    again.begin()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "data.json"]
    assert kept(tmp_path, "seed") == 1


# ---- data and teachers -------------------------------------------------------------------------


@pytest.fixture
def data(monkeypatch):
    """The splits of the data, to be changed."""
    splits = {
        "full": make_index([50, 40], 32_000, labels=[[0], [1]] * 45, split="full"),
        "balanced": make_index([30, 20], 32_000, labels=[[0], [1]] * 25, split="balanced"),
        "eval": make_index([60], 32_000, split="eval", first=100),
    }

    def opened(data_dir, split, streamed):
        if split not in splits:
            raise UserError(f"no split {split!r}; its splits are {list(splits)}")
        return MemorySource(splits[split])

    monkeypatch.setattr(Source, "open", opened)
    return splits


def checked(folder, **changes) -> Experiment:
    one = Experiment(settings_with(**changes), folder, data_dir="data")
    one.check()
    return one


def begun(folder, **changes):
    checked(folder, **changes).folder.begin()


def soft_by(teacher):
    return {"labels": "soft", "teacher": str(teacher)}


def test_other_data_are_refused_and_the_same_elsewhere_is_not(tmp_path, data):
    begun(tmp_path)
    begun(tmp_path, data__data_dir="/moved", data__source_dir="../rec")
    whole = data["balanced"]
    data["balanced"] = make_index([20, 20], 32_000, labels=[[0], [1]] * 20, split="balanced")
    with pytest.raises(OtherRunError, match=r"'balanced' now: it has 40 clips now, not 50; "):
        checked(tmp_path)
    data["balanced"] = dataclasses.replace(whole, label_values=1 - whole.label_values)
    with pytest.raises(OtherRunError, match=r"'balanced' now: its labels have changed\. Give"):
        checked(tmp_path)
    digests = np.arange(50, dtype=np.uint64)
    data["balanced"] = dataclasses.replace(whole, audio_digests=digests)
    begun(tmp_path)  # now known of the same data
    data["balanced"] = dataclasses.replace(whole, audio_digests=digests[::-1])
    with pytest.raises(OtherRunError, match=r"'balanced' now: its audio has changed\. Give"):
        checked(tmp_path)


def test_another_teacher_at_the_same_path_is_refused(tmp_path, data):
    teacher, moved = tmp_path / "teacher", tmp_path / "moved"
    begun(tmp_path / "run", **soft_by(save_model(teacher, seed=1)))
    teacher.rename(moved)
    checked(tmp_path / "run", **soft_by(moved))
    save_model(teacher, seed=2)
    with pytest.raises(OtherRunError, match=r"with another teacher: digest \w+, and .* has \w+"):
        checked(tmp_path / "run", **soft_by(teacher))


def test_corrections_replace_labels_and_are_what_a_run_was_made_with(tmp_path, data):
    table = DecisionTable(tmp_path / "decisions.csv", "ann")
    on_it = {"filename": "-clip_1", "onset": 0.0, "offset": 2.0}
    table.append(**on_it, label="class 1", decision="no")
    table.append(**on_it, label="class 2", decision="yes")
    table.append(**on_it | {"filename": "elsewhere"}, label="class 2", decision="yes")
    one = checked(tmp_path / "run", corrections=str(table.path))
    assert "1 of 3 decisions are about files that these data (balanced, eval) lack" in one.notes[0]
    assert one.train_index.weak_labels()[:3].argmax(axis=1).tolist() == [0, 2, 0]
    one.folder.begin()
    checked(tmp_path / "run", corrections=f" {table.path},")
    table.undo()
    for changes in ({}, {"corrections": str(table.path)}):
        with pytest.raises(OtherRunError, match=r"made with other corrections.* \w+ now"):
            checked(tmp_path / "run", **changes)
    begun(tmp_path / "plain")
    with pytest.raises(OtherRunError, match="other corrections of labels: digest None"):
        checked(tmp_path / "plain", corrections=str(table.path))


def test_a_teacher_that_is_gone_is_not_needed_any_more(tmp_path, data):
    soft = soft_by(save_model(tmp_path / "teacher"))
    begun(tmp_path / "run", **soft)
    (tmp_path / "teacher").rename(tmp_path / "away")
    with pytest.raises(UserError, match=r"config\.teacher is .*there is no such file or folder"):
        checked(tmp_path / "run", **soft)
    finish(tmp_path / "run", "relabel")
    checked(tmp_path / "run", **soft)
    suite._check_teachers({"run": settings_with(**soft)}, {"run": tmp_path / "run"})


def test_a_teacher_on_own_recordings_that_is_not_there_yet(tmp_path):
    missing = tmp_path / "runs/own/teacher"
    settings = settings_with(**soft_by(missing), data__corpus="own_data")
    told = rf"there is no {missing} \(yet\), and .* Train it first, or name another by --config\."
    with pytest.raises(UserError, match=told):
        suite._check_teachers({"psl10s": settings}, {"psl10s": tmp_path / "run"})


def test_soft_labels_of_another_teacher_are_not_trained_on(tmp_path, data):
    """Seeds and alphas may share labels: a folder of them tells whose they are."""
    labels = tmp_path / "labels"
    write_soft_labels(labels, data["balanced"], Segmentation(10.0))  # of another one
    soft = soft_by(save_model(tmp_path / "teacher"))
    one = checked(tmp_path / "run", **soft, soft_labels_dir=str(labels))
    one.folder.begin()
    with pytest.raises(UserError, match=r"teacher_digest differs"):
        one.label_stage.open()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"data__train_split": "fulll"}, r"config\.data\.train_split is 'fulll': no split"),
        ({"data__eval_split": "test"}, r"config\.data\.eval_split is 'test'"),
        ({"labels": "soft", "alpha": 0.5}, "soft labels need a teacher"),
        ({"labels": "soft", "teacher": "nowhere"}, r"config\.teacher is 'nowhere'"),
    ],
)
def test_what_cannot_work_is_found_before_anything_is_written(tmp_path, data, changes, match):
    with pytest.raises(UserError, match=match):
        checked(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()
    begun(tmp_path / "run")  # other settings: nothing was locked


def test_no_teacher_works_for_labels_that_do_not_count(tmp_path, data):
    begun(tmp_path, labels="soft", alpha=0.0)
    finish(tmp_path, "train", "average", "evaluate")
    one = checked(tmp_path, labels="soft", alpha=0.0)
    one.run(Stage.EVALUATE)  # there is no teacher to ask


# ---- what to know before believing the figures ---------------------------------------------------


def notes(folder, **changes):
    return "\n".join(checked(folder, **changes).notes)


def test_notes(tmp_path, data):
    usual = {"train__epochs": 500, "train__batch_size": 8, "segment_seconds": 2.0}
    assert notes(tmp_path, **usual) == (
        "validated on clips that it is trained on, as in the paper: its validation mAP says little "
        "about other clips, and the best checkpoints are chosen by it"
    )
    full = notes(tmp_path / "teacher", **usual, data__train_split="full")
    assert "validated on clips that it is trained on" in full
    assert "only 6 steps of training" in notes(tmp_path, **usual | {"train__epochs": 1})
    data["eval"] = make_index([10], 32_000, split="eval", first=45)
    few = notes(tmp_path / "few", **usual)
    assert "5 of the 10 clips of split 'eval' are among the training clips" in few
    assert "evaluated on 10 clips only" in few


def test_copies_of_training_clips_are_found_by_their_audio(tmp_path, data):
    for split, first in (("balanced", 0), ("eval", 47)):
        index = data[split]
        digests = np.arange(first, first + len(index), dtype=np.uint64)
        data[split] = dataclasses.replace(index, audio_digests=digests)
    data["validation"] = dataclasses.replace(data["eval"], split="validation")
    found = notes(tmp_path, train__epochs=500, data__validation_split="validation")
    for split in ("validation", "eval"):
        assert f"3 of the 60 clips of split {split!r} are among the training clips" in found


def quality(soft, empty=0.1, seconds=2.0):
    statistics = {"threshold": 0.5, "mean_labels": {"soft": soft, "weak": 1.5}}
    statistics["share_without_labels"] = {"soft": empty, "weak": 0.0}
    return {"segment_seconds": seconds, "statistics": statistics}


def test_labels_that_say_nothing_are_noted():
    assert sanity_notes.of_labels(quality(1.2)) == []
    (empty,) = sanity_notes.of_labels(quality(0.05, empty=0.95))
    assert empty.startswith("95 % of the clips have no soft label above 0.5")
    (many,) = sanity_notes.of_labels(quality(162.0))
    assert many.startswith("162 soft labels a clip above 0.5, where there are 1.5 weak ones")
    assert sanity_notes.of_labels(quality(162.0, seconds=0.32)) == []  # of frames


@pytest.mark.parametrize(
    ("segments", "devices", "batch"), [(40, 1, 4), (102, 1, 8), (300, 1, 16), (1500, 3, 33)]
)
def test_the_batch_fits_the_size_of_the_set(segments, devices, batch):
    assert setting_checks.fitting_batch(0, segments, multiple=devices) == batch
    assert setting_checks.fitting_batch(32, segments, multiple=devices) == 32


def test_small_sets_make_a_least_number_of_steps():
    settings = TrainSettings(epochs=60, min_steps=1500, batch_size=4)
    small = settings.in_steps(10.0, batch_size=4)
    assert small.max_steps == 1500 and small.validate_every == 30 and small.patience == 375
    large = settings.in_steps(1000.0, batch_size=4)
    assert large.max_steps == 60_000 and large.patience == 15_000
    paper = TrainSettings().in_steps(10.0, batch_size=4)
    assert (paper.max_steps, paper.validate_every, paper.patience) == (3000, 10, 150)


def test_a_file_is_no_workdir(tmp_path):
    (tmp_path / "notes.md").write_text("")
    claim = run_files.claim_folder(tmp_path / "notes.md", "--workdir")
    with pytest.raises(UserError, match=r"notes\.md is a file"), claim:
        pass


def test_a_refused_run_leaves_no_folder_behind(tmp_path):
    (tmp_path / "mine").mkdir()
    folders = [tmp_path / "runs/own/students", tmp_path / "mine"]
    for folder in folders:
        with pytest.raises(UserError), run_files.claim_folder(folder, "--workdir"):
            raise UserError("refused")
    assert list(tmp_path.rglob("*")) == [tmp_path / "mine"]
    with run_files.claim_folder(folders[0], "--workdir"):
        (folders[0] / "config.json").write_text("{}")
    assert (folders[0] / "config.json").exists()


def test_a_teacher_that_is_worse_than_weak_labels_is_noted():
    teachers = {"teacher": "", "weak": "", "psl2s": "teacher"}
    for teacher_map, noted in ((0.3, True), (0.5, False)):
        values = {"teacher": teacher_map, "weak": 0.4, "psl2s": 0.35}
        rows = {name: {"mAP": value, "notes": []} for name, value in values.items()}
        suite_results._note_poor_teachers(rows, teachers)
        assert [bool(row["notes"]) for row in rows.values()] == [False, False, noted]


def test_a_training_that_was_begun_in_another_order_is_refused(tmp_path):
    order = TrainingOrder(4, seed=0)
    begun = start(tmp_path)
    begun.bind_order(order.description)  # nothing is trained yet
    begun.begin()
    (tmp_path / "checkpoints/5").mkdir(parents=True)
    start(tmp_path).bind_order(order.description)
    streamed = dataclasses.replace(order, streamed=True).description
    with pytest.raises(UserError, match=r"'streamed.* 'by number.* config\.data\.streamed"):
        start(tmp_path).bind_order(streamed)
    (tmp_path / "data.json").unlink()  # as of an earlier version, which told no order
    files.write_json(tmp_path / "data.json", {})
    with pytest.raises(UserError, match=r"earlier version.*commit de85886"):
        start(tmp_path).bind_order(order.description)
    finish(tmp_path, "train")  # it is done
    start(tmp_path).bind_order(order.description)
