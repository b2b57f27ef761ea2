"""Thresholds: of best F1, in agreement with scikit-learn, and kept with the model."""

import csv
import dataclasses

import audio_files
import numpy as np
import pytest
import synthetic_data
import tagging
from sklearn.metrics import f1_score
from synthetic_data import with_events

from psl_jax.commands import tag, thresholds
from psl_jax.data.clip_index import ragged
from psl_jax.exporting.formats import FORMATS, describe
from psl_jax.networks.trained_model import Thresholds
from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError
from psl_jax.tagging import tagger, threshold_tuning
from psl_jax.weights.load_model import load_model
from psl_jax.weights.orbax_folder import store_thresholds


def noisy(rng, n=400, classes=4):
    truth = rng.random((n, classes)) < [0.5, 0.1, 0.02, 0.3]
    scores = 1 / (1 + np.exp(-rng.normal(3.0 * truth - 3.0, 1.5)))
    return scores.astype(np.float32), truth


def test_f1_is_scikit_learns_and_the_threshold_its_best():
    scores, truth = noisy(np.random.default_rng(0))
    counts = threshold_tuning.Counts(4)
    for part in np.array_split(np.arange(len(scores)), 7):
        counts.add(scores[part], truth[part])
    found = threshold_tuning.tune(counts, "clips")
    for label in range(4):
        every = [
            f1_score(truth[:, label], scores[:, label] >= np.float32(t), zero_division=0)
            for t in threshold_tuning.CANDIDATES
        ]
        np.testing.assert_allclose(counts.compute_f1()[label], every)
        assert found.f1[label] == pytest.approx(max(every))
        at = f1_score(truth[:, label], scores[:, label] >= found.thresholds[label])
        assert at == pytest.approx(max(every))
    half = [f1_score(truth[:, i], scores[:, i] >= 0.5, zero_division=0) for i in range(4)]
    np.testing.assert_allclose(found.f1_default, half)


def test_a_class_that_is_not_there_gets_what_is_best_for_all_together():
    scores, truth = noisy(np.random.default_rng(1))
    truth[:, 2] = False
    counts = threshold_tuning.Counts(4)
    counts.add(scores, truth)
    found = threshold_tuning.tune(counts, "clips")
    pooled = [
        f1_score(truth.ravel(), scores.ravel() >= np.float32(t))
        for t in threshold_tuning.CANDIDATES
    ]
    assert list(found.has_clips) == [True, True, False, True]
    assert found.thresholds[2] == found.common
    assert pooled[np.flatnonzero(found.common == threshold_tuning.CANDIDATES)[0]] == pytest.approx(
        max(pooled)
    )


def test_rows_of_events():
    index = synthetic_data.make_index([1], 64_000)
    index = with_events(index, [[(0.5, 1.5, 0), (1.0, 1.05, 1), (3.9, 4.0, 2)]])
    truth = threshold_tuning.compute_true_rows(index, 0, 13)
    # Rows reach 0.16 s to each side of 0.32 i; the last one, from 3.68 s on, to the end.
    assert [np.flatnonzero(column).tolist() for column in truth.T] == [[2, 3, 4], [3], [12]]


def count_scores(clips, index):
    """Of the recordings of these numbers, 3 s each."""
    audio = [tagging.recording(3.0, seed=clip) for clip in clips]
    index = dataclasses.replace(index, classes=tagging.LABELS)
    source = synthetic_data.MemorySource(index, audio)
    return threshold_tuning.count_scores(tagging.tagger(), source)


def test_clips_whose_events_nobody_wrote_down_count_for_nothing():
    labels, events = [[0], [1], [0], [2]], {0: [(0.5, 1.5, 0)], 2: [(1.0, 2.0, 0)]}

    def make_index(clips):
        index = synthetic_data.make_index([len(clips)], 48_000, [labels[c] for c in clips], 6)
        return with_events(index, [events.get(c, []) for c in clips])

    some, alone = (count_scores(clips, make_index(clips)) for clips in ([0, 1, 2, 3], [0, 2]))
    counts = thresholds._count_clips_by_class(make_index([0, 1, 2, 3]), "rows")
    assert counts.tolist() == [2, 0, 0, 0, 0, 0]
    np.testing.assert_array_equal(some.all, alone.all)
    np.testing.assert_array_equal(some.true, alone.true)
    assert alone.all[0].sum() == 20 and alone.num_true.tolist() == [6, 0, 0, 0, 0, 0]


def test_clips_do_not_count_for_classes_that_are_unknown_in_them():
    def counted(clips, unknown):
        labels = [[[0], [1], []][clip] for clip in clips]
        index = synthetic_data.make_index([len(clips)], 48_000, labels, 6)
        offsets, values = ragged(unknown)
        index = dataclasses.replace(index, unknown_offsets=offsets, unknown_values=values)
        return count_scores(clips, index)

    some, alone = counted([0, 1, 2], [[], [0], range(6)]), counted([0], [[]])
    both = counted([0, 1], [[], []])
    for ours, without, known in zip(*((c.all, c.true) for c in (some, alone, both)), strict=True):
        np.testing.assert_array_equal(ours[0], without[0])  # of clip 1 class 0 is unknown
        np.testing.assert_array_equal(ours[1:], known[1:])


def clearest(peaks: np.ndarray) -> float:
    """Of the thresholds that are tried, the one in the middle part that is furthest from all."""
    low, high = np.quantile(peaks, [0.3, 0.7])
    tried = threshold_tuning.CANDIDATES[
        (low < threshold_tuning.CANDIDATES) & (high > threshold_tuning.CANDIDATES)
    ]
    return tried[np.abs(tried[:, None] - peaks).min(axis=1).argmax()]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A split whose labels are what the model hears above some thresholds."""
    folder = tmp_path_factory.mktemp("data")
    audio = [tagging.recording(3.0, seed=i) for i in range(24)]
    peaks = np.stack([tagging.tagger().tag(x, 16_000).frame_scores.max(axis=0) for x in audio])
    limits = [clearest(column) for column in peaks.T]
    labels = [np.flatnonzero(row >= limits).tolist() for row in peaks]
    index = synthetic_data.make_index([24], 48_000, labels, 6)
    index = dataclasses.replace(index, classes=tagging.LABELS)
    synthetic_data.write_prepared(folder, index, audio, "val")
    return folder


def test_command_stores_what_tagging_uses(data, tmp_path, capsys):
    model = tagging.save(tmp_path / "run")
    files.write_json(tmp_path / "run/config.json", {"data": {"train_split": "fold1+val"}})
    arguments = [str(data), "--split=val", f"--csv={tmp_path / 'x.csv'}", "--median_filter=1"]
    thresholds.main(thresholds.parse(["thresholds", model, *arguments, "--dry_run"]))
    assert load_model(model).info.thresholds is None
    thresholds.main(thresholds.parse(["thresholds", model, *arguments]))
    told = capsys.readouterr().out
    assert "F1 of clips (weak labels)" in told and "trained on split 'val'" in told
    stored = tagger.load(model)
    # The labels are those of clips above the limits: F1 is 1 there, and only there.
    rows = list(csv.DictReader((tmp_path / "x.csv").read_text().splitlines()))
    assert [row["F1"] for row in rows] == ["1.000"] * len(tagging.LABELS)
    np.testing.assert_allclose(stored.thresholds, [float(r["threshold"]) for r in rows])
    tags = stored.tag(tagging.recording(5.0, seed=99), 16_000)
    assert tags.events() == tags.events(dict(zip(tags.labels, stored.thresholds, strict=True)))
    assert tags.events() != tags.events(0.5)
    some = tagger.load(model, ["siren", "dog"])
    assert some.thresholds == (stored.thresholds[1], stored.thresholds[0])
    with pytest.raises(UserError, match="'cat' is none of"):
        tags.events({"cat": 0.5})


def test_thresholds_are_stored_before_they_are_printed(data, tmp_path, monkeypatch):
    """Where nobody reads on, as with `| head -1`, they are there all the same."""
    model = tagging.save(tmp_path / "run")

    def break_pipe(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", break_pipe)
    with pytest.raises(BrokenPipeError):
        thresholds.main(thresholds.parse(["thresholds", model, str(data), "--split=val"]))
    assert load_model(model).info.thresholds is not None


def test_decisions_of_people_correct_the_labels_but_no_true_events(data, tmp_path, monkeypatch):
    table = tmp_path / "corrections.csv"
    table.write_text("filename,onset,offset,label,decision,who,when\n-clip_0,0,3,dog,yes,ann,\n")
    options = ["--split=val", f"--corrections={table}"]
    arguments = thresholds.parse(["thresholds", "m", str(data), *options])
    source = thresholds._open_source(arguments)
    assert 0 in np.flatnonzero(source.index.weak_labels()[0])
    monkeypatch.setattr(threshold_tuning, "choose_unit", lambda index: "rows")
    with pytest.raises(UserError, match="decisions change labels alone"):
        thresholds._open_source(arguments)


def test_command_line_uses_and_shows_them(tmp_path, capsys):
    model = tagging.save(tmp_path / "run")
    values = (0.9, 0.2, 0.3, 0.4, 0.45, 0.6)
    store_thresholds(model, Thresholds(values, {"split": "x", "median_filter": 3}))
    path = str(audio_files.write(tmp_path / "a.wav", tagging.recording(4.0)))
    tag.main(tag.parse(["tag", model, path, "--format=csv"]))
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    by_name = dict(zip(tagging.LABELS, values, strict=True))
    expected = tagging.tagger().tag(path).events(by_name, median_filter=3)
    assert [row["label"] for row in rows] == [event.label for event in expected]
    assert {row["label"] for row in rows}
    tag.main(tag.parse(["tag", model, "--list_labels"]))
    assert capsys.readouterr().out.splitlines()[:2] == ["dog\t0.9", "siren\t0.2"]


def test_exports_keep_them(tmp_path):
    pytest.importorskip("torch")
    model = tagging.save(tmp_path / "run")
    given = Thresholds((0.1, 0.2, 0.3, 0.4, 0.5, 0.6), {"split": "a"})
    store_thresholds(model, given)
    loaded = load_model(model)
    FORMATS["torch"].write(tmp_path / "model.pt", loaded, describe(loaded, "CC0"))
    assert load_model(tmp_path / "model.pt").info.thresholds == given


def test_damaged_ones_are_told(tmp_path):
    model = tagging.save(tmp_path / "run")
    file = store_thresholds(model, Thresholds((0.5,) * 6))
    file.write_text(file.read_text().replace('"siren": 0.5', '"siren": 1.5'))
    with pytest.raises(UserError, match=r"model.json: the threshold of 'siren' is 1.5"):
        load_model(model)
