"""PSDS and F1 of events, in agreement with sed_scores_eval and sed_eval."""

import dataclasses
import warnings

import numpy as np
import pytest
import synthetic_data
from synthetic_data import with_events

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.data.clip_index import ClipIndex, ragged
from psl_jax.scoring import event_metrics
from psl_jax.scoring.event_metrics import StepScores
from psl_jax.tagging.event_evaluation import make_steps
from psl_jax.tagging.events import EventSettings, find_events

CLASSES, CLIPS = 4, 30
Events = list[list[tuple[float, float, int]]]


@pytest.fixture(scope="module")
def split() -> tuple[ClipIndex, list[StepScores], Events]:
    """Clips with events, of a class at most one at a time, and scores that follow them roughly.

    Scores have two decimals, so that many are equal. The events are also in a list.
    """
    rng = np.random.default_rng(0)
    index = synthetic_data.make_index(
        [CLIPS], rng.integers(40_000, 160_000, CLIPS).tolist(), num_classes=CLASSES
    )
    events: Events = []
    steps = []
    for seconds in index.num_samples / SAMPLE_RATE:
        labels = rng.permutation(CLASSES)[: rng.integers(1, CLASSES + 1)]
        onsets = rng.uniform(0, 0.7 * seconds, len(labels)).astype(np.float32)
        offsets = onsets + rng.uniform(0.2, 4, len(labels)).astype(np.float32)
        offsets = np.minimum(offsets, np.float32(seconds - 0.01))
        times = zip(onsets.tolist(), offsets.tolist(), labels.tolist(), strict=True)
        events.append(sorted(times))
        num_rows = int(seconds / 0.32) + 1
        logits = rng.normal(scale=0.5, size=(num_rows, CLASSES)).cumsum(axis=0) - 1
        centres = 0.32 * np.arange(num_rows)
        for onset, offset, label in events[-1]:
            logits[(centres >= onset) & (centres < offset), label] += 2
        scores = np.round(1 / (1 + np.exp(-logits)), 2).clip(0.01).astype(np.float32)
        steps.append(make_steps(scores, float(seconds)))
    return with_events(index, events), steps, events


def list_events(index: ClipIndex, events: Events) -> dict[str, list[tuple[float, float, str]]]:
    """By clip, as other packages take them."""
    return {
        str(clip_id): [(onset, offset, index.classes[label]) for onset, offset, label in clip]
        for clip_id, clip in zip(index.ids, events, strict=True)
    }


def test_psds_is_that_of_sed_scores_eval(split):
    reference = pytest.importorskip(
        "sed_scores_eval", reason="needs sed-scores-eval-np2, a compiler and pandas<3"
    )
    score_frames = pytest.importorskip("sed_scores_eval.base_modules.scores")
    index, steps, events = split
    scores = {
        str(clip_id): score_frames.create_score_dataframe(
            clip.scores.astype(float), clip.edges, list(index.classes)
        )
        for clip_id, clip in zip(index.ids, steps, strict=True)
    }
    seconds = index.num_samples / SAMPLE_RATE
    durations = dict(zip(map(str, index.ids), seconds.tolist(), strict=True))
    results = event_metrics.evaluate_events(steps, index, np.full(CLASSES, 0.5))
    for name, settings in event_metrics.PSDS.items():
        confusion = {"cttc_threshold": settings.cttc, "alpha_ct": settings.alpha_ct}
        expected, of_classes, *_ = reference.intersection_based.psds(
            scores,
            list_events(index, events),
            durations,
            dtc_threshold=settings.dtc,
            gtc_threshold=settings.gtc,
            **(confusion if settings.alpha_ct else {}),
            alpha_st=1.0,
            max_efpr=100.0,
        )
        assert results.summary[name] == pytest.approx(expected, abs=1e-8)
        values = dict(zip(index.classes, results.classes[name], strict=True))
        assert values == pytest.approx(of_classes, abs=1e-8)


def test_f1_is_that_of_sed_eval_for_the_events_that_tag_finds(split):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports what is deprecated
        sed_eval = pytest.importorskip("sed_eval")
        from dcase_util.containers import MetaDataContainer
    index, steps, events = split
    thresholds = (0.3, 0.5, 0.7, 0.9)
    names = list(index.classes)
    metrics = {
        "segment_F1": sed_eval.sound_event.SegmentBasedMetrics(names, time_resolution=1.0),
        "event_F1": sed_eval.sound_event.EventBasedMetrics(
            names, t_collar=0.2, percentage_of_length=0.2
        ),
    }
    true = list_events(index, events)
    for clip_id, clip in zip(map(str, index.ids), steps, strict=True):
        seconds = float(clip.edges[-1])
        settings = EventSettings(thresholds)
        found = [event[:3] for event in find_events(clip.scores, settings, names, seconds)]
        lists = [
            MetaDataContainer(
                [
                    {"file": clip_id, "onset": onset, "offset": offset, "event_label": label}
                    for onset, offset, label in events
                ]
            )
            for events in (true[clip_id], found)
        ]
        metrics["segment_F1"].evaluate(*lists, evaluated_length_seconds=seconds)
        metrics["event_F1"].evaluate(*lists)
    results = event_metrics.evaluate_events(steps, index, np.array(thresholds))
    for name, metric in metrics.items():
        by_class = metric.results_class_wise_metrics()
        expected = [by_class[label]["f_measure"]["f_measure"] for label in names]
        assert results.classes[name] == pytest.approx(np.nan_to_num(expected))
        assert results.summary[name] == pytest.approx(np.nan_to_num(expected).mean())


def test_scores_that_follow_the_events_are_perfect():
    index = with_events(
        synthetic_data.make_index([2], 160_000, num_classes=3),
        [[(1.0, 3.0, 0), (2.0, 5.0, 1), (4.5, 6.0, 1)], [(0.0, 10.0, 1)]],
    )
    first = StepScores(np.array([0.0, 1, 2, 3, 6, 10]), np.zeros((5, 3), np.float32))
    first.scores[1:3, 0] = 0.9
    first.scores[2:4, 1] = 0.4  # two events that overlap are one
    second = StepScores(np.array([0.0, 10.0]), np.array([[0, 0.3, 0]], np.float32))
    results = event_metrics.evaluate_events([first, second], index, np.full(3, 0.1))
    assert [results.summary[name] for name in event_metrics.EVENT_METRICS] == [1, 1, 1, 1]
    assert results.summary["num_events"] == 3
    assert results.classes["PSDS1"] == [1, 1, None]  # the last class has no event
    high = event_metrics.evaluate_events([first, second], index, np.full(3, 0.35))
    assert high.summary["PSDS1"] == 1  # which needs no threshold
    assert high.classes["event_F1"] == [1, pytest.approx(2 / 3), None]


def test_a_class_that_is_unknown_in_a_clip_does_not_count_there(split):
    """As where the clip were not there for this class, and it had no event in it."""
    index, steps, events = split
    (label, *_) = set(range(CLASSES)) - {label for _, _, label in events[0]} or {0}
    unknown = [[label] if clip == 0 else [] for clip in range(CLIPS)]
    offsets, values = ragged(unknown)
    partly = dataclasses.replace(index, unknown_offsets=offsets, unknown_values=values)
    without = [StepScores(clip.edges, clip.scores.copy()) for clip in steps]
    without[0].scores[:, label] = 0
    thresholds = np.full(CLASSES, 0.5)
    results, expected = (
        event_metrics.evaluate_events(scores, of, thresholds)
        for scores, of in ((steps, partly), (without, index))
    )
    assert results.classes["segment_F1"] == expected.classes["segment_F1"]
    # Fewer hours, so that as many false positives are more an hour.
    assert results.classes["PSDS1"][label] <= expected.classes["PSDS1"][label]
    others = [k for k in range(CLASSES) if k != label]
    for name in event_metrics.EVENT_METRICS:
        assert [results.classes[name][k] for k in others] == [
            expected.classes[name][k] for k in others
        ]


def test_clips_whose_events_nobody_wrote_down_count_for_nothing(split):
    index, steps, events = split
    some = with_events(index, [clip if i % 2 else [] for i, clip in enumerate(events)])
    alone = synthetic_data.make_index(
        [CLIPS // 2], index.num_samples[1::2].tolist(), num_classes=CLASSES
    )
    thresholds = np.full(CLASSES, 0.5)
    expected = event_metrics.evaluate_events(
        steps[1::2], with_events(alone, events[1::2]), thresholds
    )
    assert event_metrics.evaluate_events(steps, some, thresholds).summary == expected.summary
