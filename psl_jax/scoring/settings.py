"""How clips are evaluated and relabeled."""

import dataclasses

from psl_jax.data.label_manifest import LabelRule
from psl_jax.runtime.settings import evaluation, operational, setting


@dataclasses.dataclass(frozen=True)
class EvaluateSettings:
    """config.evaluate"""

    # training (as there) | whole (the zero-padded clip; the published code) | seconds, such as 2
    segments: str = evaluation("training", choices=("training", "whole"), or_above=0)
    batch_size: int = operational(0, least=0)  # segments; 0: by the devices, see scorer.fitting

    def seconds(self, training: float) -> float | None:
        """Length of the segments; None for whole clips."""
        if self.segments == "whole":
            return None
        return training if self.segments == "training" else float(self.segments)


@dataclasses.dataclass(frozen=True)
class RelabelSettings(LabelRule):
    """config.relabel: how soft labels are made, see `LabelRule`, and when."""

    # beforehand: they are stored, one stage before the training. in_step: the teacher labels each
    # batch inside the training step, as in the published code.
    when: str = setting("beforehand", choices=("beforehand", "in_step"))
    # CSV class,teacher_class, for all teachers or with commas one for each; default: equal names.
    class_map: str = operational("")
    # Classes that the teacher lacks: error, or they keep their weak labels, or have 0 (drop).
    unmapped: str = setting("error", choices=("error", "drop", "weak"))
    # Of several teachers the weighted mean of these.
    mean: str = setting("probabilities", choices=("probabilities", "logits"))
    batch_size: int = operational(0, least=0)  # segments; 0: by the devices, see scorer.fitting
