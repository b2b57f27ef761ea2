"""A run, an export or a published checkpoint of our own network, as a teacher."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.networks.mobilenetv2 import num_parameters
from psl_jax.networks.trained_model import Model
from psl_jax.scoring.scorer import Scorer
from psl_jax.teachers.teacher import Running, description


@dataclasses.dataclass(frozen=True)
class OwnTeacher:
    """See `Teacher`."""

    model: Model

    rate = SAMPLE_RATE
    context = None

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

    def described(self) -> list[dict[str, Any]]:
        return [description(self, "psl_jax")]

    def words(self) -> str:
        width, parameters = self.model.info.width, num_parameters(self.model.variables)
        return (
            f"{self.name}: {len(self.classes)} classes, width {width:g}, {parameters:,} "
            f"parameters, digest {self.digest}"
        )

    def scorer(self, running: Running) -> Scorer:
        model = self.model
        return Scorer(
            model.variables,
            model.info.logmel,
            running.dtype,
            running.num_devices,
            running.count_padding,
            output=model.info.output,
        )
