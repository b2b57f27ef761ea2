"""What every corpus gives to be prepared."""

import abc
import functools
import types
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.corpora.clip_rows import Loader, Problem, load_clip
from psl_jax.runtime.csv_files import listing
from psl_jax.runtime.errors import UserError


class Corpus(abc.ABC):
    """Recordings and their labels as somebody has them on disk.

    Subclasses find their tables when they are made; audio is looked for by `rows`.
    """

    name: ClassVar[str]  # of the data set that is made of it
    source_dir: str = ""  # the folder of the recordings
    # Of the constructor, where one of them is `splits`.
    arguments: Mapping[str, Any] = types.MappingProxyType({})
    classes: tuple[str, ...]  # names, in label order
    class_ids: tuple[str, ...]
    has_events: bool = False  # strong labels
    settings: Mapping[str, Any]  # all that decides the records; JSON-able
    problems: list[tuple[str | None, Problem]]  # with their split, found before audio is loaded
    absent: Mapping[str, int] = types.MappingProxyType({})  # clips by split that make no row
    # Splits that are several of those that `rows` gives, which share no clip.
    unions: Mapping[str, Sequence[str]] = types.MappingProxyType({})
    sample_rate: int = SAMPLE_RATE
    max_clip_seconds: float  # longer clips are cut there

    @abc.abstractmethod
    def rows(self) -> Mapping[str, Sequence[Any]]:
        """The rows of each split, in record order."""

    def loader(self) -> Loader:
        """What makes a row a clip at `sample_rate`."""
        return functools.partial(
            load_clip, max_seconds=self.max_clip_seconds, rate=self.sample_rate
        )

    def only(self, splits: Sequence[str]) -> Self | None:
        """The same corpus with these splits; None where splits cannot be chosen. UserError."""
        if not self.arguments:
            return None
        corpus = type(self)(**{**self.arguments, "splits": splits})
        corpus.sample_rate = self.sample_rate
        return corpus

    def nothing_left(self, split: str, problems: Sequence[Problem]) -> UserError:
        """The error for a split of which no clip is left; problems: of its rows."""
        of_tables = [p for name, p in self.problems if name is None]
        problems = [*(p for name, p in self.problems if name == split), *problems, *of_tables]
        shown = [f"{p.file}: {p.kind} ({p.detail})" for p in problems[:5]]
        return UserError(
            f"no clip of split {split!r} is usable. The first problems:\n"
            + listing(shown or ["(no rows in its table)"])
        )
