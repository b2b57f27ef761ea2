"""Which clip of a data set a name in a label file is of. Names are never split at "_" or "-"."""

import os
import re
from collections.abc import Iterator, Sequence

import numpy as np

from psl_jax.corpora.audioset_csv import ID_LENGTH
from psl_jax.runtime.errors import UserError

_TIMES = re.compile(r"_\d+(\.\d+)?([_-]\d+(\.\d+)?)?")
_EXAMPLES = 3


class ClipNames:
    """Finds clips by their ids, or by the names of their files.

    A name is tried as it is; then without its folder, its extension, and a `Y` before it; and of an
    AudioSet id also without the times behind it: AudioSet has one part of each video. The whole
    name comes first, as ids may themselves begin with `Y`, `-` or `_`.

    Memory: about 150 bytes a clip.
    """

    def __init__(self, ids: np.ndarray):
        self._numbers = {clip_id: number for number, clip_id in enumerate(ids.tolist())}
        self.unknown = 0
        self.unknown_examples: list[str] = []

    def find(self, names: Sequence[str]) -> np.ndarray:
        """Numbers of clips, int64 [n]; -1 for those of other data, which are counted."""
        found = self.look_up(names)
        self.unknown += int((found < 0).sum())
        if len(self.unknown_examples) < _EXAMPLES:
            others = dict.fromkeys(names[i] for i in np.flatnonzero(found < 0).tolist())
            self.unknown_examples = [*dict.fromkeys([*self.unknown_examples, *others])][:_EXAMPLES]
        return found

    def look_up(self, names: Sequence[str]) -> np.ndarray:
        """The same, and nothing is counted."""
        return np.fromiter((self._find(name) for name in names), np.int64, len(names))

    def _find(self, name: str) -> int:
        numbers = self._numbers
        if name in numbers:  # nearly always
            return numbers[name]
        return next((numbers[one] for one in _candidates(name) if one in numbers), -1)

    def check_some_found(self, path: object, found: int) -> None:
        """Raises UserError, with examples of both, where a file knows no clip of the data."""
        if not found:
            ours = ", ".join(list(self._numbers)[:_EXAMPLES])
            raise UserError(
                f"{path} has labels of other clips: {', '.join(self.unknown_examples) or 'none'}; "
                f"the data has {ours}. Give its own split with --split"
            )


def _candidates(name: str) -> Iterator[str]:
    base = os.path.basename(name.replace("\\", "/"))
    stem = os.path.splitext(base)[0]
    for one in (base, stem):
        yield one
        yield one.removeprefix("Y")
    for whole in (base, stem):
        for one in (whole, whole.removeprefix("Y")):
            if _TIMES.fullmatch(one[ID_LENGTH:]):
                yield one[:ID_LENGTH]
