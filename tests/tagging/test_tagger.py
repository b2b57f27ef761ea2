"""The model object: its answers are the network's, for audio of every length."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tagging

import psl_jax
from psl_jax.runtime.errors import UserError
from psl_jax.scoring.scorer import Scorer
from psl_jax.tagging import tagger

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def model():
    return tagging.tagger()


def test_files_of_any_length_share_a_program(model):
    model.tag(tagging.recording(2.6), 16_000)
    program = tagger.jit_program(model.front_end, embeddings=False)
    before = program._cache_size()
    for seconds in (0.3, 1.9, 2.4, 3.1):
        model.tag(tagging.recording(seconds), 16_000)
    assert program._cache_size() == before


@pytest.mark.parametrize("hop", [None, 0.7, 2.0])
def test_segments_are_the_network_on_each(model, hop):
    audio = tagging.recording(7.3, seed=3)
    step = 8_000 if hop is None else round(16_000 * hop)  # by default a quarter of a segment
    onsets = [*range(0, len(audio) - 32_000, step), len(audio) - 32_000]
    # One more at each end hears a second of the reflection there, for the rows of the other half.
    beside = [-16_000, len(audio) - 16_000]
    padded = np.pad(audio, 16_000, mode="reflect")
    parts = [padded[onset + 16_000 :][:32_000] for onset in [*onsets, *beside]]
    frames = [tagging.network_alone(part) for part in parts]
    tags = model.tag(audio, 16_000, segment_seconds=2.0, hop_seconds=hop)
    means = [f.mean(0) for f in frames[: len(onsets)]]
    np.testing.assert_allclose(tags.scores, np.mean(means, 0), atol=TOLERANCE)
    assert {len(f) for f in frames} == {7}
    centres = np.add.outer([*onsets, *beside], 5120 * np.arange(7))
    row, together = ((centres + 2560) // 5120).ravel(), np.concatenate(frames)
    last = len(audio) // 5120
    row[: 7 * len(onsets)] = np.minimum(row[: 7 * len(onsets)], last)  # past the end: not a row
    weights = np.tile([1.0, 2, 3, 4, 3, 2, 1], len(frames))  # the middle of a segment weighs most
    assert len(tags.frame_scores) == last + 1
    for i, scores in enumerate(tags.frame_scores):
        expected = np.average(together[row == i], axis=0, weights=weights[row == i])
        np.testing.assert_allclose(scores, expected, atol=TOLERANCE)


def test_padding_of_short_segments_has_no_influence_on_scores(model):
    """Segments that end in silence longer than the front end's reflection, padded with zeros."""
    small, samples = tagging.model(), np.array([32_000, 20_001, 9_000], np.int32)
    audio = np.zeros((3, 32_000), np.int16)
    for row, n in zip(audio, samples, strict=True):
        row[: n - 600] = tagging.recording(2.0, seed=int(n))[: n - 600]
    scorer = Scorer(small.folded, model.front_end)
    batch = {"audio": audio, "num_samples": samples, "weight": np.ones(3, np.float32)}
    ((_, scores),) = scorer([batch])
    for row, n, found in zip(audio, samples, scores, strict=True):
        expected = tagging.network_alone(row[:n]).mean(axis=0)
        np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_frame_times_are_where_sounds_are(model):
    """Each frame's embedding changes most for a click at the frame's time."""
    quiet = np.random.default_rng(0).normal(0, 0.01, 8 * 16_000).astype(np.float32)
    before = model.tag(quiet, 16_000, embeddings=True)
    for second in (2.4, 3.7, 5.0):
        clicked = quiet.copy()
        clicked[round(second * 16_000) : round((second + 0.02) * 16_000)] += 0.5
        after = model.tag(clicked, 16_000, embeddings=True)
        change = np.abs(after.frame_embeddings - before.frame_embeddings).sum(axis=1)
        centre = (change * before.frame_times).sum() / change.sum()
        assert abs(centre - second) < 0.16


def test_embedding_is_what_the_classifier_sees(model):
    audio = tagging.recording(2.0).astype(np.float32)[None] / 32768
    program = tagger.jit_program(model.front_end, embeddings=True)
    values = np.asarray(program(model._network, audio, np.array([32_000])))[0]
    scores, embeddings = np.split(values, [len(model.labels)], axis=1)
    classifier = tagging.model().variables.params["classifier"]
    logits = embeddings @ classifier["kernel"] + classifier["bias"]
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), scores, atol=1e-4)
    tags = model.tag(audio[0], 16_000, embeddings=True)  # a single segment
    np.testing.assert_allclose(tags.embedding, embeddings.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(tags.scores, scores.mean(axis=0), atol=TOLERANCE)
    assert tags.frame_embeddings.shape == (len(tags.frame_times), model.embedding_size)


def test_top_and_events(model):
    tags = model.tag(tagging.recording(6.0), 16_000)
    best = tags.top(2)
    assert [label for label, _ in best] == [tags.labels[i] for i in np.argsort(-tags.scores)[:2]]
    assert best[0][1] >= best[1][1] and len(tags.top(99)) == len(tags.labels)
    with pytest.raises(UserError, match=r"'sirens' is none of the 6 classes \(near: siren\)"):
        tags.events({"sirens": 0.3})
    with pytest.raises(UserError, match=r"threshold is \(0.3, 0.4\), expected a number"):
        tags.events((0.3, 0.4))
    events = tags.events(0.6)
    assert events and {event.label for event in events} <= set(tags.labels)
    for event in events:
        rows = (tags.frame_times >= event.onset) & (tags.frame_times <= event.offset)
        assert tags.frame_scores[rows, tags.labels.index(event.label)].max() == pytest.approx(
            event.score
        )


SECOND = {"audio": np.zeros(16_000), "sample_rate": 16_000}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"audio": np.zeros(16_000)}, "sample rate"),
        ({"audio": "no/such/file.wav"}, r"no/such/file.wav: missing: no such file"),
        (SECOND | {"segment_seconds": 0.01}, "segment_seconds is 0.01, expected 0.1 to 60"),
        (SECOND | {"segment_seconds": 2.0, "hop_seconds": 3.0}, "hop_seconds is 3"),
        (SECOND | {"segment_seconds": "2"}, "segment_seconds is '2', expected a number"),
        (SECOND | {"hop_seconds": [1]}, r"hop_seconds is \[1\], expected a number"),
        (SECOND | {"hop_seconds": b"1"}, r"hop_seconds is b'1', expected a number"),
        (SECOND | {"hop_seconds": 10**400}, r"hop_seconds is 1000.*, expected a number"),
    ],
)
def test_errors_are_in_words(model, arguments, message):
    with pytest.raises(UserError, match=message):
        model.tag(**arguments)


def test_load(tmp_path, model):
    folder = tagging.save(tmp_path / "run")
    loaded = psl_jax.load(folder)
    assert loaded.labels == tagging.LABELS and loaded.segment_seconds == 2.0
    assert "6 classes" in repr(loaded)
    audio = tagging.recording(2.5)
    np.testing.assert_array_equal(loaded.tag(audio, 16_000).scores, model.tag(audio, 16_000).scores)
    with pytest.raises(UserError, match="no such file or folder"):
        psl_jax.load(tmp_path / "none")


def test_labels_in_any_form(tmp_path):
    run = tagging.save(tmp_path / "run")
    for labels in ("siren", ["siren"], np.array(["siren"]), {"siren"}):
        assert psl_jax.load(run, labels).labels == ("siren",)
    with pytest.raises(UserError, match="none of them, such as '1'"):
        psl_jax.load(run, labels=np.array([1, 2]))


def test_importing_is_cheap():
    code = "import psl_jax, sys; assert psl_jax.__version__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"jax", "tensorflow", "numpy", "flax"} & set(done.stdout.split())


def test_a_model_from_before_a_fork_is_refused(monkeypatch):
    model, sound = tagging.tagger(), np.zeros(16_000, np.float32)
    monkeypatch.setattr(os, "getpid", lambda: 0)
    with pytest.raises(UserError, match="load it in each process"):
        model.tag(sound, 16_000)
    assert pickle.loads(pickle.dumps(model)).tag(sound, 16_000).labels == model.labels
