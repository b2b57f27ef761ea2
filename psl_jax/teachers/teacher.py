"""Defines a teacher, which turns waveforms into scores of segments; scorers on the host's cores."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from psl_jax.audio.segments import flatten
from psl_jax.data.label_manifest import LabelRule
from psl_jax.data.segment_loader import Batch
from psl_jax.networks.class_lists import Columns, select_columns
from psl_jax.networks.trained_model import Model
from psl_jax.runtime import files, parallel
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.ordered_map import ordered_map
from psl_jax.scoring.relabeling import TeacherIdentity
from psl_jax.scoring.scorer import CPU_BATCH, SegmentScorer, select_real_rows
from psl_jax.weights.load_model import HUB

AUDIOSET_SECONDS = 10.0  # taggers of AudioSet are trained on clips of this length
_DEFAULT_RULE = LabelRule()


@dataclasses.dataclass(frozen=True)
class Teacher:
    """What turns waveforms into scores of segments."""

    name: str  # for messages
    classes: tuple[str, ...]  # in the order of its scores
    rate: int  # of its input in Hz; audio of another rate is resampled
    digest: str  # hash of all that its scores depend on
    entry: dict[str, Any]  # its JSON entry in a manifest
    summary: str  # a line about it, for a plan
    open_scorer: Callable[[LabelRule], SegmentScorer]  # see `make_scorer`
    segment_seconds: float = AUDIOSET_SECONDS  # length of the audio that it was trained on
    output: str = "sigmoid"  # or "softmax", where its classes exclude each other
    model: Model | None = None  # of a teacher of ours
    weak_classes: np.ndarray | None = None  # bool [classes], that keep weak labels; None: none

    @property
    def identity(self) -> TeacherIdentity:
        return TeacherIdentity(self.digest, [self.entry], self.weak_classes)

    def make_scorer(self, rule: LabelRule = _DEFAULT_RULE) -> SegmentScorer:
        """Makes a scorer of segments on this process's devices."""
        return self.open_scorer(rule)


def is_path(kind: str, where: str) -> bool:
    """Whether a teacher is named by a file or folder; others are imported or downloaded."""
    return kind not in ("python", "transformers") and not where.startswith(HUB)


def make_teacher(
    kind: str,
    name: str,
    classes: tuple[str, ...],
    open_scorer: Callable[[LabelRule], SegmentScorer],
    *,
    rate: int,
    digest: str,
    what: str,
    facts: dict[str, Any] | None = None,
    **more: Any,
) -> Teacher:
    """Makes a teacher with its entry and its summary.

    kind, facts: what the manifest calls it, and says besides. what: what it is, for its summary.
    more: further attributes of `Teacher`.
    """
    entry = {"kind": kind, "name": name, "digest": digest, "classes": len(classes), "rate": rate}
    summary = f"{name}: {what}, {rate / 1000:g} kHz, {len(classes)} classes, digest {digest}"
    return Teacher(name, classes, rate, digest, entry | (facts or {}), summary, open_scorer, **more)


class MappedScorer:
    """Scores with a teacher, checks its scores, and maps them. See `SegmentScorer`."""

    def __init__(
        self, teacher: Teacher, function: Callable[[np.ndarray], np.ndarray], rule: LabelRule
    ):
        """function: maps scores [n, classes of the teacher] to [n, classes]."""
        self._name, self._function = teacher.name, function
        self._scorer = teacher.make_scorer(rule)
        self.where, self.fitting = self._scorer.where, self._scorer.fitting

    def __call__(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, np.ndarray]]:
        for batch, scores in self._scorer(batches):
            check_scores(scores, self._name)
            yield batch, self._function(scores)


def map_scores(
    teacher: Teacher, function: Callable[[np.ndarray], np.ndarray], **changes: Any
) -> Teacher:
    """Makes a teacher whose scores are a function of another's, like it but for the `changes`."""
    open_scorer = functools.partial(MappedScorer, teacher, function)
    mapped = dataclasses.replace(teacher, open_scorer=open_scorer, output="sigmoid", model=None)
    return dataclasses.replace(mapped, **changes)


def map_classes(teacher: Teacher, classes: Sequence[str], columns: Columns) -> Teacher:
    """Maps a teacher's scores to the data's `classes`.

    columns: for each of them those of the teacher, whose maximum is its score; () for 0.
    """
    num_mapped = sum(len(column) > 0 for column in columns)
    return map_scores(
        teacher,
        lambda scores: np.nan_to_num(select_columns(scores, columns), copy=False),
        classes=tuple(classes),
        digest=files.json_digest([teacher.digest, list(classes), [list(c) for c in columns]]),
        entry=teacher.entry | {"mapped_classes": num_mapped},
        summary=f"{teacher.summary}, {num_mapped} of them mapped",
    )


def check_scores(scores: np.ndarray, name: str) -> None:
    """Raises UserError where scores are not probabilities."""
    if not np.isfinite(scores).all():
        raise UserError(f"{name} gives NaN or infinite scores: its labels would be worthless")
    if scores.size and not (scores.min() >= -1e-6 and scores.max() <= 1 + 1e-6):
        raise UserError(
            f"{name} gives scores from {scores.min():g} to {scores.max():g}, which are no "
            'probabilities: say outputs = "logits" in its description, or apply a sigmoid'
        )


def make_quiet_noise(num_rows: int, rate: int) -> np.ndarray:
    """Makes 2 s of faint noise to try a teacher with: float32 [rows, samples]."""
    samples = np.random.default_rng(0).integers(-300, 300, (num_rows, 2 * rate))
    return samples.astype(np.float32) / np.float32(32_768)


# --- Teachers on the host's cores, in threads -----------------------------------------------------

# Waveforms float32 [n, samples] in [-1, 1] of one length, at the teacher's rate, to probabilities
# [n, classes]; called by several threads at once.
Run = Callable[[np.ndarray], np.ndarray]


class HostScorer:
    """See `SegmentScorer`."""

    where = f"{os.cpu_count() or 1} threads"

    def __init__(
        self,
        run: Run,
        rate: int,
        rule: LabelRule,
        *,
        takes_batches: bool = True,
        batches_at_once: int = 1,
    ):
        """takes_batches: passes rows of the same length to `run` at once; else each in a thread."""
        self._run, self._rate, self._takes_batches = run, rate, takes_batches
        self._count_padding, self._batches_at_once = rule.count_padding, batches_at_once

    def fitting(self, batch_size: int, seconds: float) -> int:
        return batch_size or CPU_BATCH

    def __call__(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, np.ndarray]]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:

            def score(batch: Batch) -> tuple[Batch, np.ndarray]:
                waveforms = list(
                    pool.map(self._make_waveform, batch["audio"], batch["num_samples"])
                )
                return batch, self._compute_scores(waveforms, pool)

            real_batches = parallel.prefetch(batches, select_real_rows)
            yield from ordered_map(score, real_batches, self._batches_at_once, ahead=1)

    def _make_waveform(self, audio: np.ndarray, num_valid: int) -> np.ndarray:
        """Makes the waveform of a row at the teacher's rate: its valid samples, or zeros after."""
        samples = np.zeros(audio.shape, np.float32)
        samples[:num_valid] = audio[:num_valid] / np.float32(32_768)
        waveform, rate = flatten(samples if self._count_padding else samples[:num_valid])
        if self._rate == rate:
            return waveform
        import soxr

        return np.asarray(soxr.resample(waveform, rate, self._rate, quality="HQ"))

    def _compute_scores(self, waveforms: list[np.ndarray], pool: ThreadPoolExecutor) -> np.ndarray:
        if not self._takes_batches:
            return np.concatenate(list(pool.map(lambda row: self._run(row[None]), waveforms)))
        lengths = np.array([len(waveform) for waveform in waveforms])
        scores: dict[int, np.ndarray] = {}  # by the number of the row
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length).tolist()
            values = self._run(np.stack([waveforms[row] for row in rows]))
            scores |= zip(rows, values, strict=True)
        return np.stack([scores[row] for row in range(len(waveforms))])


def make_opener(
    run: Run, rate: int, name: str, *, takes_batches: bool = True
) -> Callable[[LabelRule], HostScorer]:
    """Makes a function that opens the scorer of a teacher which computes in float32 alone.

    The function raises UserError for another data type.
    """

    def open_scorer(rule: LabelRule) -> HostScorer:
        if rule.dtype != "float32":
            raise UserError(
                f"{name} computes in float32 alone, not in {rule.dtype}: leave out --dtype, in an "
                "experiment config.relabel.dtype"
            )
        return HostScorer(run, rate, rule, takes_batches=takes_batches)

    return open_scorer


def cut_windows(values: np.ndarray, window_size: int, *, hop: int) -> np.ndarray:
    """Cuts windows, one every `hop`: [n, samples] -> [n, windows, size].

    Values shorter than a window are padded with zeros. Where more than half a hop remains at the
    end, a last window ends there.
    """
    values = np.pad(values, ((0, 0), (0, max(window_size - values.shape[1], 0))))
    last = values.shape[1] - window_size
    starts = list(range(0, last + 1, hop))
    if last - starts[-1] > hop / 2:
        starts.append(last)
    return np.stack([values[:, start : start + window_size] for start in starts], axis=1)
