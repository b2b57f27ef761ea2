"""Defines a teacher, which turns waveforms into scores of segments."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from psl_jax.data.label_manifest import LabelRule
from psl_jax.networks.trained_model import Model
from psl_jax.runtime.errors import UserError
from psl_jax.scoring.relabeling import TeacherIdentity
from psl_jax.scoring.scorer import SegmentScorer

AUDIOSET_SECONDS = 10.0  # taggers of AudioSet are trained on clips of this length
_DEFAULT_RULE = LabelRule()


@dataclasses.dataclass(frozen=True)
class Teacher:
    """What turns waveforms into scores of segments.

    Attributes:
      name: name for messages.
      classes: names of its classes, in the order of its scores.
      rate: sample rate of its input in Hz; audio of another rate is resampled.
      digest: hash of all that its scores depend on.
      entries: JSON entries of a manifest, one for each of its teachers.
      summary: a line about it, for a plan.
      open_scorer: see `make_scorer`.
      segment_seconds: length of the audio that it was trained on.
      output: "softmax" where its classes exclude each other.
      model: the model of a teacher of ours.
      weak_classes: bool [classes], those that keep their weak labels; None: none.
    """

    name: str
    classes: tuple[str, ...]
    rate: int
    digest: str
    entries: list[dict[str, Any]]
    summary: str
    open_scorer: Callable[[LabelRule], SegmentScorer]
    segment_seconds: float = AUDIOSET_SECONDS
    output: str = "sigmoid"
    model: Model | None = None
    weak_classes: np.ndarray | None = None

    @property
    def identity(self) -> TeacherIdentity:
        return TeacherIdentity(self.digest, self.entries, self.weak_classes)

    def make_scorer(self, rule: LabelRule = _DEFAULT_RULE) -> SegmentScorer:
        """Makes a scorer of segments on this process's devices."""
        return self.open_scorer(rule)


def describe(
    kind: str, name: str, classes: tuple[str, ...], *, rate: int, digest: str, **facts: Any
) -> list[dict[str, Any]]:
    """Makes the entry of a teacher in a manifest, with what there is to say besides."""
    entry = {"kind": kind, "name": name, "digest": digest, "classes": len(classes), "rate": rate}
    return [entry | facts]


def refuse_other_types(rule: LabelRule, name: str) -> None:
    """Raises UserError for another data type than that of a teacher that has no choice."""
    if rule.dtype != "float32":
        raise UserError(
            f"{name} computes in float32 alone, not in {rule.dtype}: leave out --dtype, in an "
            "experiment config.relabel.dtype"
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
