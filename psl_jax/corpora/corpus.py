"""What every corpus gives to be prepared."""

import abc
import functools
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.corpora.clip_rows import Loaded, Loader, Problem
from psl_jax.runtime.errors import UserError


class Corpus(abc.ABC):
    """Recordings and their labels as somebody has them on disk.

    Subclasses find their tables when they are made; audio is looked for by `rows`.

    Attributes:
      name: of the data set that is made of it.
      classes, class_ids: names and ids of the classes, in label order.
      has_events: whether there are strong labels.
      settings: all that decides the records; JSON-able.
      problems: (split, problem) found before audio is loaded.
      absent: clips by split that make no row.
      unions: splits that are several of those that `rows` gives, which share no clip.
    """

    name: ClassVar[str]
    classes: tuple[str, ...]
    class_ids: tuple[str, ...]
    has_events: bool
    settings: Mapping[str, Any]
    problems: list[tuple[str | None, Problem]]
    absent: Mapping[str, int] = types.MappingProxyType({})
    unions: Mapping[str, Sequence[str]] = types.MappingProxyType({})
    sample_rate: int = SAMPLE_RATE

    @abc.abstractmethod
    def rows(self) -> Mapping[str, Sequence[Any]]:
        """The rows of each split, in record order."""

    @abc.abstractmethod
    def loader(self) -> Loader:
        """What makes a row a clip."""

    @property
    def clip_loader(self) -> Loader:
        """What makes a row a clip at `sample_rate`."""
        if self.sample_rate == SAMPLE_RATE:
            return self.loader()
        loader: Callable[..., Loaded] = self.loader()
        return functools.partial(loader, rate=self.sample_rate)

    def only(self, splits: Sequence[str]) -> "Corpus | None":
        """The same corpus with these splits; None where splits cannot be chosen. UserError."""
        del splits
        return None

    def nothing_left(self, split: str, problems: list[Problem]) -> UserError:
        """The error for a split of which no clip is left."""
        first = "\n".join(f"  {p.file}: {p.kind} ({p.detail})" for p in problems[:5])
        return UserError(f"no clip of split {split!r} is usable. The first problems:\n{first}")

    def notes(self, report: Mapping[str, Any]) -> list[str]:
        """What to say of a data set that was prepared before; `report` is its report."""
        del report
        return []
