"""Makes a teacher of a run, an export or a published checkpoint of a network of psl_jax."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from psl_jax.networks.architecture import num_parameters
from psl_jax.networks.trained_model import Model
from psl_jax.scoring.scorer import Scorer
from psl_jax.teachers.teacher import ScoringOptions, make_description


@dataclasses.dataclass(frozen=True)
class OwnTeacher:
    """See `Teacher`.

    file_digest: of labels said to come from a published file, mn:FILE; "": from arrays and classes.
    """

    model: Model
    file_digest: str = ""

    context_seconds = None

    @property
    def rate(self) -> int:
        return self.model.info.architecture.sample_rate

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
        return self.file_digest or self.model.digest

    def for_classes(self, classes: Sequence[str]) -> "OwnTeacher":
        """See `Model.for_classes`."""
        return OwnTeacher(self.model.for_classes(classes))

    def describe(self) -> list[dict[str, Any]]:
        kind = self.model.info.network if self.file_digest else "psl_jax"
        return [make_description(self, kind) | {"width": self.model.info.width}]

    def summarize(self) -> str:
        info, parameters = self.model.info, num_parameters(self.model.variables)
        return (
            f"{self.name}: {info.architecture.title}, {len(self.classes)} classes, width "
            f"{info.width:g}, {parameters:,} parameters, digest {self.digest}"
        )

    def make_scorer(self, running: ScoringOptions) -> Scorer:
        how = running.dtype, running.num_devices, running.count_padding
        return Scorer(self.model.folded, self.model.info.front_end, *how)
