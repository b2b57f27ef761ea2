"""Makes a teacher of a run, an export or a published checkpoint of our own network."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.networks.mobilenetv2 import num_parameters
from psl_jax.networks.trained_model import Model
from psl_jax.scoring.scorer import Scorer
from psl_jax.teachers.teacher import ScoringOptions, make_description


@dataclasses.dataclass(frozen=True)
class OwnTeacher:
    """See `Teacher`."""

    model: Model

    rate = SAMPLE_RATE
    context_seconds = None

    @property
    def name(self) -> str:
        return self.model.info.name

    @property
    def classes(self) -> tuple[str, ...]:
        return self.model.classes

    @property
    def segment_seconds(self) -> float:
        return self.model.info.segment_seconds

    @property
    def digest(self) -> str:
        return self.model.digest

    def for_classes(self, classes: Sequence[str]) -> "OwnTeacher":
        """See `Model.for_classes`."""
        return OwnTeacher(self.model.for_classes(classes))

    def describe(self) -> list[dict[str, Any]]:
        return [make_description(self, "psl_jax")]

    def summarize(self) -> str:
        width, parameters = self.model.info.width, num_parameters(self.model.variables)
        return (
            f"{self.name}: {len(self.classes)} classes, width {width:g}, {parameters:,} "
            f"parameters, digest {self.digest}"
        )

    def make_scorer(self, running: ScoringOptions) -> Scorer:
        model = self.model
        return Scorer(
            model.variables,
            model.info.logmel,
            running.dtype,
            running.num_devices,
            running.count_padding,
            output=model.info.output,
        )
