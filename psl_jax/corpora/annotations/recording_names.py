"""Which recording a table means: names in other case, without ending, by a path of elsewhere."""

import collections
import os
import pathlib
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Sequence

from psl_jax.audio.decoding import AUDIO_SUFFIXES
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import is_remote, path_of

# What tools and people put behind the name of a recording to call its table.
_TABLE_WORDS = {"table", "tables", "selection", "selections", "label", "labels", "track", "events"}
_TABLE_WORDS |= {"annotation", "annotations", "birdnet", "results", "raven", "audacity", "elan"}
_TABLE_WORDS |= {"txt", "csv", "tsv", "xlsx", "parquet"} | {s[1:] for s in AUDIO_SUFFIXES}


class RecordingNames:
    """The recordings of a folder, by any name that people and tools give them."""

    def __init__(self, recordings: Iterable[str], root: pathlib.Path | None = None):
        """recordings: paths relative to the folder. root: where names are paths of any files."""
        self._root = root
        self._by_path: dict[str, str] = {}
        self._by_base: dict[str, list[str]] = collections.defaultdict(list)
        self._by_stem: dict[str, list[str]] = collections.defaultdict(list)
        self._folders: set[str] = set()  # those with recordings, folded
        for recording in sorted(recordings):
            base = _split_path(recording)[-1]
            self._by_path[recording] = recording
            self._by_path.setdefault(unicodedata.normalize("NFC", recording), recording)
            self._folders.add(posixpath.dirname(_fold(recording)))
            self._by_base[base].append(recording)
            self._by_stem[posixpath.splitext(base)[0]].append(recording)
        self._called: dict[str, tuple[str, ...]] = {}  # recording -> the longest path to it so far

    def find(self, names: Sequence[str], where: str, *, folder: str = "") -> str | None:
        """The recording that has one of the `names`; None where there is none.

        where: table and row. folder: that of the table, whose recordings come before others. Raises
        UserError for names of several recordings, and for a recording that goes by two paths, of
        two recordings elsewhere.
        """
        matches = {name: match for name in names if (match := self._match(name, where, folder))}
        if len(set(matches.values())) > 1:
            raise UserError(
                f"{where}: about {' and '.join(matches.values())}; expected one of them"
            )
        for name, recording in matches.items():
            parts, other = _split_path(without_ending(name)), self._called.get(recording, ())
            shorter = min(len(parts), len(other))
            if shorter and parts[-shorter:] != other[-shorter:]:
                raise UserError(
                    f"{where}: {name!r} is another file than {'/'.join(other)!r}, and here there "
                    f"is only {recording}"
                )
            self._called[recording] = max(parts, other, key=len)
            return recording
        return None

    def of_table(self, table: str) -> str | None:
        """The recording by whose name a table is called, as in yard_01.Table.1.selections.txt."""
        base = _split_path(table)[-1]
        ends = (end for end in range(len(base) - 1, 0, -1) if base[end] in "._- ")
        stem = next((base[:e] for e in ends if base[:e] in self._by_stem), None)
        if stem is None or not _are_table_words(base[len(stem) :]):
            return None
        recordings = self._by_stem[stem]
        beside = [r for r in recordings if posixpath.dirname(r) == posixpath.dirname(table)]
        if len(beside or recordings) > 1:
            raise UserError(f"{table}: a table of {' or '.join(recordings)}? Rename one of them")
        return (beside or recordings)[0]

    def _match(self, name: str, where: str, folder: str) -> str | None:
        path = posixpath.normpath(name.strip())
        for spelling in (path, unicodedata.normalize("NFC", path)):
            if spelling in self._by_path:
                return self._by_path[spelling]
        if self._root is not None and _is_file(self._root, path):
            return path
        parts, folded = _split_path(name), _fold(name)
        has_suffix = _is_audio(name)
        table = self._by_base if has_suffix else self._by_stem
        candidates = table.get(parts[-1], [])
        if (named := posixpath.dirname(folded)) and named in self._folders:
            # A folder of that name is here: the recording may have been deleted from it.
            folders = named, posixpath.dirname(_fold(posixpath.join(folder, name.strip())))
            candidates = [c for c in candidates if posixpath.dirname(_fold(c)) in folders]
        folded_paths = {c: _fold(c if has_suffix else posixpath.splitext(c)[0]) for c in candidates}
        if self._root is not None or folded in folded_paths.values():
            candidates = [c for c in candidates if folded_paths[c] == folded]
        if len(candidates) < 2:
            return candidates[0] if candidates else None
        common = [_common_tail(parts, _split_path(c), stem_only=not has_suffix) for c in candidates]
        best = [c for c, n in zip(candidates, common, strict=True) if n == max(common)]
        below = _fold(posixpath.join(folder, name.strip()))
        best = [c for c in best if folded_paths[c] == below] or best
        if len(best) > 1:
            raise UserError(f"{where}: {name!r} may be {' or '.join(best)}. Write its path")
        return best[0]


def is_same_path(first: str, second: str) -> bool:
    """Whether two paths differ at most in separators, and in how umlauts are coded."""
    return _normalize(first) == _normalize(second)


def _is_file(root: pathlib.Path, path: str) -> bool:
    """Whether there is such a file, for any text: it may be too long, or begin with s3:."""
    if is_remote(root):
        return path_of(f"{os.fspath(root)}/{path}").is_file()
    return os.path.isfile(root / path)


def _normalize(name: str) -> str:
    path = unicodedata.normalize("NFC", name.strip()).replace("\\", "/")
    return posixpath.normpath(path)


def _fold(name: str) -> str:
    return _normalize(name).casefold()


def _split_path(name: str) -> tuple[str, ...]:
    """The folded parts of a path of any system, without a drive."""
    parts = [part for part in _fold(name).split("/") if part not in ("", ".")]
    return tuple(parts[1:] if parts and re.fullmatch("[a-z]:", parts[0]) else parts) or ("",)


def _common_tail(first: tuple[str, ...], second: tuple[str, ...], *, stem_only: bool) -> int:
    if stem_only:
        second = (*second[:-1], posixpath.splitext(second[-1])[0])
    pairs = zip(reversed(first), reversed(second), strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _are_table_words(text: str) -> bool:
    """Whether there are only words for tables, and numbers behind one of them.

    _2.txt behind yard_1 is the table of another recording, .Table.2.selections.txt is not.
    """
    words = [word for word in re.split(r"[._\- ]+", text) if word]
    return words[0] in _TABLE_WORDS and all(w in _TABLE_WORDS or w.isdigit() for w in words)


def suffix_of(path: str) -> str:
    """The ending of a name in small letters, as .wav."""
    return posixpath.splitext(path)[1].lower()


def without_ending(name: str) -> str:
    """The name of a recording without its ending, if it has that of audio."""
    return posixpath.splitext(name.strip())[0] if _is_audio(name) else name


def _is_audio(name: str) -> bool:
    return suffix_of(name.strip()) in AUDIO_SUFFIXES
