"""How clips are evaluated and relabeled."""

import dataclasses

from psl_jax.runtime.settings import evaluation, operational


@dataclasses.dataclass(frozen=True)
class EvaluateSettings:
    """config.evaluate"""

    segment_seconds: float | None = evaluation(None, above=0)  # None: as in training
    whole_clip: bool = evaluation(False)  # zero-padded, instead of segments; the published code
    batch_size: int = operational(64, least=1)  # segments

    def seconds(self, training: float) -> float | None:
        """Length of the segments; None for whole clips."""
        if self.whole_clip:
            return None
        return training if self.segment_seconds is None else self.segment_seconds


@dataclasses.dataclass(frozen=True)
class RelabelSettings:
    """config.relabel"""

    batch_size: int = operational(64, least=1)  # segments
