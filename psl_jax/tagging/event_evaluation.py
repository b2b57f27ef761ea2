"""Evaluates a model's events on a split with true events, as `tag` finds them."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.source import Source
from psl_jax.networks.trained_model import Model
from psl_jax.runtime import files, progress
from psl_jax.runtime.errors import UserError
from psl_jax.scoring import event_metrics
from psl_jax.scoring.event_metrics import EventResults, StepScores
from psl_jax.tagging.events import EventSettings, compute_row_start, smooth_rows
from psl_jax.tagging.tagger import ScoredRows, Tagger

_READ_AT_ONCE = 256  # clips


def evaluate_model(model: Model, source: Source, median_filter: int | None = None) -> EventResults:
    """Scores the annotated clips of a split as `tag` does, and evaluates the events.

    Thresholds are the model's, and by default the filter that they were tuned with. Raises
    UserError for a split without true events, and for classes that the model lacks.
    """
    index = source.index
    check_events(index)
    tagger = Tagger(model.for_classes(index.classes))
    median_filter = describe_settings(model, median_filter)["median_filter"]
    clips = np.flatnonzero(index.annotated)
    nothing = StepScores(np.zeros(1), np.zeros((0, index.num_classes), np.float32))
    steps = [nothing] * len(index)
    for clip, rows in score_clips(tagger, source, clips, median_filter, description="events"):
        steps[clip] = make_steps(rows, float(index.num_samples[clip]) / SAMPLE_RATE)
    return event_metrics.evaluate_events(steps, index, np.array(tagger.thresholds))


def describe_settings(model: Model, median_filter: int | None) -> dict[str, Any]:
    """What the results depend on besides model and data, for metrics.json. Raises UserError."""
    tuned = model.info.thresholds
    if median_filter is None:
        median_filter = model.thresholds.median_filter
    EventSettings(median_filter=median_filter)
    digest = None if tuned is None else files.json_digest(tuned.values)
    return {"median_filter": median_filter, "thresholds": digest}


def check_events(index: ClipIndex) -> None:
    """Raises UserError for a split without true events."""
    if index.event_values is None or not len(index.event_values):
        raise UserError(
            f"split {index.split!r} has no true events: events cannot be evaluated. Prepare "
            "the data with tables of onsets and offsets"
        )


def make_steps(rows: np.ndarray, seconds: float) -> StepScores:
    """Rows [n, classes] with the times at which they begin and the last one ends."""
    starts = np.clip(compute_row_start(np.arange(len(rows) + 1)), 0.0, seconds)
    starts[-1] = seconds
    return StepScores(starts, rows)


def score_clips(
    tagger: Tagger, source: Source, clips: np.ndarray, median_filter: int, *, description: str
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (clip, scores, float32 [rows, classes]) of clips, ascending, as `tag` gives them.

    They are smoothed as events are found. description: of a bar that counts the clips.
    """
    segmentation = tagger.segmentation()
    with progress.bar(len(clips), "clip", description) as bar:
        for start in range(0, len(clips), _READ_AT_ONCE):
            block_clips = clips[start : start + _READ_AT_ONCE]
            audio = list(source.read_whole(block_clips))
            blocks = [lambda waveform=waveform: iter([waveform]) for waveform in audio]
            rows: dict[int, list[np.ndarray]] = {i: [] for i in range(len(audio))}
            for item in tagger.run(blocks, segmentation):
                assert isinstance(item, ScoredRows), item  # what is in memory can be read
                rows[item.source].append(item.rows)
                if item.is_last:
                    of_clip = np.concatenate(rows.pop(item.source))
                    yield int(block_clips[item.source]), smooth_rows(of_clip, median_filter)
                    bar.update()
