"""How clips are evaluated and relabeled."""

import dataclasses

from psl_jax.data.label_manifest import LabelRule
from psl_jax.runtime.settings import evaluation, operational, setting

_BATCH_SIZE = (
    "Segments scored at once, over all devices; 0: 32 on a CPU, elsewhere 1024 s of audio per "
    "device, such as 512 segments of 2 s"
)


@dataclasses.dataclass(frozen=True)
class EvaluateSettings:
    """config.evaluate: how finished models are evaluated."""

    segments: str = evaluation(
        "training",
        help="Input of the network in evaluation: training: segments as in training; whole: whole "
        "clips, as in the published code; or a length in seconds, such as 2",
    )
    batch_size: int = operational(0, least=0, help=_BATCH_SIZE)
    events: bool = evaluation(
        False, help="Also compute PSDS, segment F1 and event F1 against the split's events"
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
        help="When the teacher labels: beforehand: all segments once, into stored labels; "
        "in_step: each batch during training, as in the published code",
    )
    class_map: str = operational(
        "",
        help="CSV class,teacher_class that pairs the data's classes with the teacher's; empty: "
        "equal names",
    )
    unmapped: str = setting(
        "error",
        choices=("error", "drop", "weak"),
        help="Classes that the teacher lacks: error: stop; drop: label 0 in every segment; weak: "
        "keep the weak labels",
    )
    trust_remote_code: bool = operational(
        False,
        help="Run the Python code that comes with a teacher transformers:NAME; only if you trust "
        "its source",
    )
    batch_size: int = operational(0, least=0, help=_BATCH_SIZE)
