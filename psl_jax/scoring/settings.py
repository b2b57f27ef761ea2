"""How clips are evaluated and relabeled."""

import dataclasses

from psl_jax.data.label_manifest import LabelRule
from psl_jax.runtime.settings import evaluation, operational, setting


@dataclasses.dataclass(frozen=True)
class EvaluateSettings:
    """config.evaluate: how finished models are evaluated."""

    segments: str = evaluation(
        "training",
        choices=("training", "whole"),
        or_above=0,
        help="What the network scores at a time: segments as in the training, whole clips (as the "
        "published code does), or segments of so many seconds, such as 2",
    )
    batch_size: int = operational(
        0,
        least=0,
        help="Segments scored at a time; 0: 32 on a CPU, 1,024 s of audio on other devices",
    )
    events: bool = evaluation(
        False,
        help="Whether the tags with times are evaluated, too, where the split has true events: "
        "PSDS, and F1 of segments and events",
    )

    def seconds(self, training: float) -> float | None:
        """Length of the segments; None for whole clips."""
        if self.segments == "whole":
            return None
        return training if self.segments == "training" else float(self.segments)


@dataclasses.dataclass(frozen=True)
class RelabelSettings(LabelRule):
    """config.relabel: how a teacher makes soft labels, and when."""

    when: str = setting(
        "beforehand",
        choices=("beforehand", "in_step"),
        help="When the teacher labels: beforehand, all segments once, into stored labels; or "
        "in_step, each batch in its training step, as in the published code",
    )
    class_map: str = operational(
        "",
        help="CSV with the columns class and teacher_class, or one per teacher, separated by "
        "commas; empty: classes with equal names",
    )
    unmapped: str = setting(
        "error",
        choices=("error", "drop", "weak"),
        help="What happens to classes that the teacher lacks: an error, labels of 0 (drop), or "
        "their weak labels",
    )
    mean: str = setting(
        "probabilities",
        choices=("probabilities", "logits"),
        help="What the mean over several teachers is taken of",
    )
    trust_remote_code: bool = operational(
        False, help="Whether Python code that a transformers: teacher brings may run"
    )
    batch_size: int = operational(
        0,
        least=0,
        help="Segments labelled at a time; 0: 32 on a CPU, 1,024 s of audio on other devices",
    )
