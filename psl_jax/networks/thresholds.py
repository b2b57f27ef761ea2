"""From which score on a class counts as heard: a threshold for each class, kept with the model."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from psl_jax.runtime.errors import UserError

DEFAULT = 0.5  # of models for which none were tuned


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """One for each class.

    Attributes:
      values: [classes], each more than 0 and at most 1.
      tuned_on: how they were found, as JSON values.
    """

    values: tuple[float, ...]
    tuned_on: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def as_json(self, classes: Sequence[str]) -> dict[str, Any]:
        """As JSON values: what `from_json` reads."""
        values = dict(zip(classes, self.values, strict=True))
        return {"by_class": values, "tuned_on": dict(self.tuned_on)}

    @classmethod
    def from_json(cls, found: Any, classes: Sequence[str], where: object) -> "Thresholds":
        """Raises UserError where a class has none, or one that is no score; `where` is the file."""
        values = found.get("by_class") if isinstance(found, Mapping) else None
        if not isinstance(values, Mapping):
            raise UserError(f"{where}: expected thresholds by_class, found {found!r:.60}")
        for name in classes:
            value = values.get(name)
            if not isinstance(value, int | float) or not 0 < value <= 1:
                raise UserError(
                    f"{where}: the threshold of {name!r} is {value!r:.40}, expected more than 0 "
                    "and at most 1. psl-jax thresholds makes them anew"
                )
        tuned_on = found.get("tuned_on")
        return cls(
            tuple(float(values[name]) for name in classes),
            dict(tuned_on) if isinstance(tuned_on, Mapping) else {},
        )

    def of(self, places: Sequence[int]) -> "Thresholds":
        """Those of some of the classes, by number."""
        return dataclasses.replace(self, values=tuple(self.values[i] for i in places))
