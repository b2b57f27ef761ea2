"""Augmented views of segments: what a student hears is what its teacher labelled."""

import itertools
import json
import shutil

import numpy as np
import pytest
import small_experiments
from hypothesis import given
from hypothesis import strategies as st
from synthetic_data import MemorySource, make_index

from psl_jax.audio.segments import Segmentation
from psl_jax.data import batches
from psl_jax.data.label_manifest import MANIFEST, LabelRule
from psl_jax.data.soft_labels import SoftLabels, view_directory
from psl_jax.data.views import View
from psl_jax.experiments import stepping
from psl_jax.experiments.experiment import Experiment
from psl_jax.runtime import parallel
from psl_jax.runtime.errors import UserError
from psl_jax.scoring import relabeling
from psl_jax.training import stepper

NONE = {
    "gain_probability": 0.0,
    "gain_db": (-18.0, 6.0),
    "polarity_probability": 0.0,
    "shift_probability": 0.0,
    "shift_fraction": 0.5,
}
AUGMENT = {"gain_probability": 0.7, "polarity_probability": 0.5, "shift_probability": 0.7}
SEGMENTATION = Segmentation(0.05, shortest_seconds=0.02)


def heard(view, audio, lengths=None, clip=None, segment=None):
    """`audio` [n, samples] in a view."""
    count = len(audio)
    lengths = np.full(count, audio.shape[1]) if lengths is None else lengths
    clip = np.arange(count) if clip is None else clip
    segment = np.zeros(count, int) if segment is None else segment
    out = audio.copy()
    view.apply(out, lengths, clip, segment)
    return out


def noise(count=200, samples=300, loudest=32767, seed=0):
    return np.random.default_rng(seed).integers(-loudest, loudest + 1, (count, samples), np.int16)


def test_a_segment_is_rolled_inside_itself():
    audio, lengths = noise(), np.full(200, 240)
    found = heard(View(1, 0, **NONE | {"shift_probability": 0.5}), audio, lengths)
    shifts = []
    for row, original in zip(found[:, :240], audio[:, :240], strict=True):
        (shift,) = [s for s in range(-120, 120) if (np.roll(original, s) == row).all()]
        shifts.append(shift)
    assert 60 < np.count_nonzero(shifts) < 140
    assert min(shifts) < -100 and max(shifts) > 100  # as far as it may
    np.testing.assert_array_equal(found[:, 240:299], found[:, 180:239][:, ::-1])  # as at any end


def test_a_gain_is_in_its_limits_and_never_clips():
    audio = noise(loudest=4000)
    found = heard(View(1, 0, **NONE | {"gain_probability": 1.0}), audio)
    gains = 20 * np.log10((found * audio.astype(float)).sum(1) / (audio.astype(float) ** 2).sum(1))
    assert -18.01 < gains.min() < -16 and 4 < gains.max() < 6.01
    loud = noise(loudest=30_000)
    for original, row in zip(loud, heard(View(1, 0, **NONE | AUGMENT), loud), strict=True):
        ratio = np.abs(row).max() / np.abs(original).max()  # a clipped row has lost its form
        values = np.sort(np.abs(original)) * ratio
        assert np.abs(np.sort(np.abs(row.astype(int))) - values).max() < 1.01


@given(st.integers(0, 5), st.integers(1, 9), st.integers(0, 2**31), st.integers(0, 99))
def test_what_is_done_follows_from_the_place_alone(seed, number, clip, segment):
    view, audio = View(number, seed, **NONE | AUGMENT), noise(3)
    places = np.array([clip, 5, clip]), np.array([segment, 5, segment])
    found = heard(view, audio, None, *places)
    again = heard(view, audio[2:], None, places[0][2:], places[1][2:])
    np.testing.assert_array_equal(found[2:], again)  # whatever else is in a batch


def test_views_seeds_clips_and_segments_differ():
    audio = np.repeat(noise(1, loudest=4000), 50, axis=0)
    always = NONE | dict.fromkeys(AUGMENT, 1.0)
    kinds = [
        heard(View(1, 0, **always), audio),
        heard(View(2, 0, **always), audio),
        heard(View(1, 1, **always), audio),
        heard(View(1, 0, **always), audio, segment=np.ones(50, int)),
    ]
    assert len(np.unique(np.concatenate(kinds), axis=0)) == 200


def told(audio):
    """What a teacher says of rows [n, samples] that hears every sample: [n, 3]."""
    x = audio.astype(float)
    weights = np.sin(np.arange(x.shape[1]) * np.array([[0.1], [0.7], [1.9]]))
    return 1 / (1 + np.exp(-(x @ weights.T) / 1e5))


class Teacher:
    def fitting(self, batch_size, seconds):
        return batch_size

    def __call__(self, feed):
        for batch in feed:
            real = batch["weight"] > 0
            rows = {name: value[real] for name, value in batch.items()}
            yield rows, told(rows["audio"]).astype(np.float32)


@pytest.fixture
def source():
    return MemorySource(make_index([3, 0, 2], [2400, 1600, 900, 800, 2000]))


def views(count, seed=0):
    return [View(number, seed, **NONE | AUGMENT) for number in range(1, count)]


def labelled(source, folder, count, format="npz", segmentation=SEGMENTATION, **rule):
    found = []
    for view in (None, *views(count)):
        relabeling.relabel(
            Teacher(),
            source,
            segmentation,
            folder,
            teacher=relabeling.TaughtBy("t"),
            batch_size=4,
            file_format=format,
            rule=LabelRule(**rule),
            view=view,
        )
        where = view_directory(folder, view)
        found.append(SoftLabels.open(where, source.index, segmentation, "t", view=view))
    found[0].add_views(found[1:])
    return found[0]


@pytest.mark.parametrize("format", ["npz", "tfrecord"])
@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
def test_a_student_hears_what_the_teacher_labelled(source, tmp_path, sampling, format):
    """Through four epochs of three views; batches begin in one epoch and end in the next."""
    labels = labelled(source, tmp_path, 3, format)
    plain = {}
    for batch in batches.eval_batches(source, SEGMENTATION, batch_size=1):
        plain[int(batch["clip"][0]), int(batch["segment"][0])] = batch["audio"][0]
    how = {"batch_size": 4, "seed": 3, "sampling": sampling, "soft_labels": labels}
    feed = batches.train_batches(source, SEGMENTATION, **how)
    size = len(plain)
    seen = list(itertools.islice(feed, -(-4 * size // 4)))
    rows = {name: np.concatenate([b[name] for b in seen]) for name in seen[0]}
    np.testing.assert_allclose(rows["labels"], told(rows["audio"]), atol=1e-3)  # float16
    places = zip(rows["clip"].tolist(), rows["segment"].tolist(), strict=True)
    changed = [
        bool((plain[place] != a).any()) for place, a in zip(places, rows["audio"], strict=True)
    ]
    by_epoch = np.array(changed[: 4 * size]).reshape(4, size).mean(axis=1)
    assert by_epoch[0] == by_epoch[3] == 0 and min(by_epoch[1:3]) > 0.5
    later = next(batches.train_batches(source, SEGMENTATION, start_step=5, **how))
    for name, value in seen[5].items():  # a run that goes on
        np.testing.assert_array_equal(later[name], value)


@pytest.mark.parametrize("process", [0, 1])
def test_so_does_each_of_two_processes_on_segments_that_overlap(source, tmp_path, process):
    overlapping = Segmentation(0.05, 0.02, 0.01)
    labels = labelled(source, tmp_path, 3, segmentation=overlapping)
    feed = batches.train_batches(
        source,
        overlapping,
        batch_size=4,
        seed=3,
        soft_labels=labels,
        process_index=process,
        process_count=2,
    )
    for batch in itertools.islice(feed, 20):
        np.testing.assert_allclose(batch["labels"], told(batch["audio"]), atol=1e-3)


def test_rates_are_fitted_to_what_was_said_of_the_view(source, tmp_path):
    """A shift of all logits, so they keep their order."""
    labels = labelled(source, tmp_path, 2, calibrate="rate").others[0]
    view, clips = labels.view, np.arange(len(source.index))
    said = np.zeros((*labels.gather(clips).shape,))
    for batch in batches.eval_batches(source, SEGMENTATION, batch_size=1):
        where = batch["clip"], batch["segment"]
        view.apply(batch["audio"], batch["num_samples"], *where)
        said[where] = told(batch["audio"])
    inside = said.any(axis=2)
    found, said = labels.gather(clips)[inside].astype(float), said[inside]
    for ours, theirs in zip(found.T, said.T, strict=True):
        order = np.argsort(theirs)
        assert np.diff(ours[order]).min() > -1e-3
    assert np.abs(found - said).max() > 0.05


def test_labels_of_a_view_are_not_taken_for_others(source, tmp_path):
    labelled(source, tmp_path, 2)
    (view,) = views(2)
    what = source.index, SEGMENTATION, "t"
    with pytest.raises(UserError, match=r"augmented view of the segments \(view\) differs"):
        SoftLabels.open(tmp_path / "view1", *what)
    with pytest.raises(UserError, match=r"differs: expected seed 1, found seed 0"):
        SoftLabels.open(tmp_path / "view1", *what, view=views(2, seed=1)[0])
    with pytest.raises(UserError, match=r"differs: expected {.*, found None"):
        SoftLabels.open(tmp_path, *what, view=view)
    told = json.loads((tmp_path / "view1" / MANIFEST).read_text())["view"]
    assert told["number"] == 1 and told["gain_db"] == [-18.0, 6.0]
    assert "view" not in json.loads((tmp_path / MANIFEST).read_text())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small_experiments.write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return small_experiments.save_model(tmp_path_factory.mktemp("teacher"))


def settings(data, teacher, relabel=(), augment=AUGMENT, train=(), **more):
    changes = {
        "labels": "soft",
        "teacher": str(teacher),
        "relabel": {"views": 2} | dict(relabel),
        "augment": dict(augment),
        "train": {"max_steps": 14} | dict(train),
    }
    return small_experiments.settings(data, **changes | more)


def test_a_run_is_trained_on_its_views(data, teacher, tmp_path, monkeypatch):
    batches_seen = []
    used = stepper._used
    monkeypatch.setattr(stepper, "_used", lambda b: batches_seen.append(b) or used(b))
    small_experiments.run(settings(data, teacher), tmp_path / "views")
    stored = tmp_path / "views" / "soft_labels"
    assert (stored / "view1" / MANIFEST).exists() and not (stored / "view2").exists()
    means = {}  # of the two views: the same segments were told otherwise
    for batch in batches_seen:
        for clip, segment, label in zip(
            *(batch[name] for name in ("clip", "segment", "labels")), strict=True
        ):
            means.setdefault((int(clip), int(segment)), set()).add(label.tobytes())
    assert sum(len(found) > 1 for found in means.values()) > len(means) / 2

    told = json.loads((tmp_path / "views" / "label_quality.json").read_text())
    assert told["bytes"] == sum(path.stat().st_size for path in stored.rglob("*.npz"))
    shutil.rmtree(stored / "view1")  # to save room: it is trained
    small_experiments.run(settings(data, teacher), tmp_path / "views", None)


def test_a_view_that_is_lost_is_made_anew(data, teacher, tmp_path):
    found = settings(data, teacher)
    small_experiments.run(found, tmp_path, "relabel")
    (shard, *_) = (tmp_path / "soft_labels" / "view1").glob("*.npz")
    kept = shard.read_bytes()
    shard.unlink()
    small_experiments.run(found, tmp_path, "train")
    assert shard.read_bytes() == kept


def test_the_student_augments_no_more(data, teacher):
    augment = AUGMENT | {"time_masks": 2, "mixup_alpha": 0.5}
    found = settings(data, teacher, augment=augment)
    one = settings(data, teacher, {"views": 1}, augment)
    mesh = parallel.data_mesh(1)
    left, whole = (stepping.recipe_of(each, mesh).augmentation for each in (found, one))
    assert whole == one.augment
    assert (left.gain_probability, left.polarity_probability) == (0, 0)
    assert (left.time_masks, left.mixup_alpha) == (2, 0.5)
    assert stepping.order_of(found, 4)["shift"] is None
    assert stepping.order_of(one, 4)["shift"] is not None
    assert [view.number for view in stepping.views_of(settings(data, teacher, {"views": 4}))] == [
        *(1, 2, 3)
    ]
    assert stepping.views_of(one) == stepping.views_of(settings(data, teacher, alpha=0.0)) == []


def test_more_views_than_epochs_are_told_and_take_room(data, teacher, tmp_path):
    one, few, many = (
        Experiment(settings(data, teacher, {"views": n}), tmp_path / str(n), str(data))
        for n in (1, 6, 50)
    )
    for experiment in (one, few, many):
        experiment.check()
    assert not [note for note in one.notes + few.notes if "views" in note]
    (note,) = [note for note in many.notes if "views" in note]
    assert "50 views are labelled" in note and "no more than 6 are heard" in note
    assert few.bytes_to_write - one.bytes_to_write == 5 * 10 * 2 * 3  # segments, bytes, classes


def test_labels_that_were_given_have_their_views(data, teacher, tmp_path):
    small_experiments.run(settings(data, teacher), tmp_path / "run", "relabel")
    given = str(tmp_path / "run" / "soft_labels")
    more = settings(data, "", {"views": 3}, soft_labels_dir=given)
    with pytest.raises(UserError, match=r"views is 3, and .*soft_labels has labels of 2: give"):
        Experiment(more, tmp_path / "more", str(data)).check()
    Experiment(settings(data, "", soft_labels_dir=given), tmp_path / "two", str(data)).check()
    small_experiments.run(
        settings(data, teacher, {"views": 3}, soft_labels_dir=given), tmp_path / "x", "relabel"
    )
    Experiment(more, tmp_path / "more", str(data)).check()
    other = settings(data, "", augment={"gain_probability": 0.2}, soft_labels_dir=given)
    with pytest.raises(UserError, match=r"differs: expected gain_probability 0\.2, found gain_p"):
        Experiment(other, tmp_path / "other", str(data)).check()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"augment": {"time_masks": 2}}, "all of them would be alike.*gain_probability=0.5"),
        ({"augment": {"shift_probability": 1.0, "shift_fraction": 0.0}}, "would be alike"),
        ({"augment": {"gain_probability": 1.0, "gain_db": (0.0, 0.0)}}, "would be alike"),
        ({"relabel": {"heard": 10.0}}, r"config\.relabel\.heard is 10\.0: views are of segments"),
        ({"relabel": {"overlap": 0.5}}, r"config\.relabel\.overlap is 0\.5"),
        ({"relabel": {"when": "in_step"}}, "give --config.relabel.when=beforehand"),
        ({"train": {"resident": True}}, "give --config.train.resident=false"),
    ],
)
def test_what_goes_with_no_views_is_refused_at_once(data, teacher, tmp_path, changes, said):
    with pytest.raises(UserError, match=rf"config\.relabel\.views is 2.*{said}"):
        small_experiments.run(settings(data, teacher, **changes), tmp_path / "run")
    assert not (tmp_path / "run" / "soft_labels").exists()
