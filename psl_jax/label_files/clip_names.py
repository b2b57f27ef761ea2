"""Finds the clip that a name in a label file means. Names are never split at "_" or "-"."""

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

    It tries a name as it is; then without its folder, its extension, and a `Y` before it; then an
    AudioSet id also without the times behind it, as AudioSet has one part of each video. The whole
    name comes first, as ids may themselves begin with `Y`, `-` or `_`.

    Memory: about 150 bytes a clip.
    """

    def __init__(self, ids: np.ndarray):
        self._numbers = {clip_id: number for number, clip_id in enumerate(ids.tolist())}
        self.unknown = 0
        self.unknown_examples: list[str] = []

    def find(self, names: Sequence[str]) -> np.ndarray:
        """Returns the numbers of clips, int64 [n]; -1 for clips of other data, and counts those."""
        clips = self.look_up(names)
        self.unknown += int((clips < 0).sum())
        if len(self.unknown_examples) < _EXAMPLES:
            examples = dict.fromkeys(names[i] for i in np.flatnonzero(clips < 0).tolist())
            self.unknown_examples = [*dict.fromkeys([*self.unknown_examples, *examples])][
                :_EXAMPLES
            ]
        return clips

    def look_up(self, names: Sequence[str]) -> np.ndarray:
        """Returns the same numbers, and counts nothing."""
        return np.fromiter((self._find(name) for name in names), np.int64, len(names))

    def _find(self, name: str) -> int:
        numbers = self._numbers
        if name in numbers:  # nearly always
            return numbers[name]
        return next(
            (numbers[candidate] for candidate in _list_candidates(name) if candidate in numbers), -1
        )

    def check_some_found(self, path: object, num_found: int) -> None:
        """Raises UserError, with examples of both, where a file has no clip of the data."""
        if not num_found:
            examples = ", ".join(list(self._numbers)[:_EXAMPLES])
            raise UserError(
                f"{path} has labels of other clips: {', '.join(self.unknown_examples) or 'none'}; "
                f"the data has {examples}. Give its own split with --split"
            )


def _list_candidates(name: str) -> Iterator[str]:
    base = os.path.basename(name.replace("\\", "/"))
    stem = os.path.splitext(base)[0]
    for name_of_clip in (base, stem):
        yield name_of_clip
        yield name_of_clip.removeprefix("Y")
    for full in (base, stem):
        for name_of_clip in (full, full.removeprefix("Y")):
            if _TIMES.fullmatch(name_of_clip[ID_LENGTH:]):
                yield name_of_clip[:ID_LENGTH]
