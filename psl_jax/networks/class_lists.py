"""Class lists, as CSVs and of files without names, and which classes of two lists are the same."""

import difflib
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Literal

import numpy as np

from psl_jax.runtime import csv_files
from psl_jax.runtime.errors import UserError

# AudioSet's class_labels_indices.csv, by Google, under CC BY 4.0: see audioset_classes.NOTICE.
AUDIOSET_CSV = pathlib.Path(__file__).with_name("audioset_classes.csv")
# YAMNet has AudioSet's classes without these, in the same order.
_MIDS_NOT_IN_YAMNET = frozenset(
    ("/m/05zppz", "/m/02zsn", "/m/04gy_2", "/t/dd00003", "/t/dd00004", "/t/dd00032")
)

# What a class of the data that a file or teacher lacks has: see `match_classes`.
UNMAPPED = ("error", "drop", "weak")
# For each class of the data the numbers of the other list's classes of which it has the maximum.
Columns = Sequence[Sequence[int]]

_SHOWN = 5  # class names in a message
_LEAST_SIMILARITY = 0.75  # in spelling, of names in a draft of a class map, as difflib measures it

# Byte order marks, spaces of no width, marks of the direction of writing.
_INVISIBLE = dict.fromkeys(map(ord, "\ufeff\u200b\u2060\u200e\u200f\u00ad"))


@cache
def audioset_classes() -> tuple[str, ...]:
    """Display names of AudioSet's 527 classes, in label order."""
    return read_classes(AUDIOSET_CSV)[0]


def read_classes(path: str | os.PathLike[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(names, ids) of a CSV with the columns `index,mid,display_name` or one column `label`.

    Raises UserError for a file that is not there or of another form.
    """
    header = csv_files.read_header(path, ("label",))
    if "label" in header and "display_name" not in header:
        names = [clean_name(row["label"]) for _, row in csv_files.read_rows(path, ("label",))]
        class_ids = names
    else:
        forms = "index,mid,display_name or one column label"
        columns = ("index", "mid", "display_name")
        rows = [row for _, row in csv_files.read_rows(path, columns, expected=forms)]
        try:
            rows.sort(key=lambda row: int(row["index"]))
            is_contiguous = [int(row["index"]) for row in rows] == list(range(len(rows)))
        except ValueError:
            is_contiguous = False
        if not is_contiguous:
            raise UserError(f"{path}: the column index must count 0, 1, 2, ... without gaps")
        names = [clean_name(row["display_name"]) for row in rows]
        class_ids = [clean_name(row["mid"]) or name for row, name in zip(rows, names, strict=True)]
    for what, values in (("class", names), ("mid", class_ids)):
        if len({*values, ""}) <= len(values):
            repeated = sorted({value for value in values if values.count(value) > 1})
            raise UserError(f"{path}: {what} named twice or empty: {repeated or 'empty name'}")
    if not names:
        raise UserError(f"{path} lists no class")
    return tuple(names), tuple(class_ids)


def find_class(name: str, classes: Sequence[str]) -> int | None:
    """The number of the class of that name, or of that name in another case; None for none."""
    for key in (clean_name, lambda text: clean_name(text).casefold()):
        numbers = [number for number, other in enumerate(classes) if key(other) == key(name)]
        if len(numbers) == 1:
            return numbers[0]
    return None


def near_names(name: object, names: Sequence[str]) -> str:
    """Words for a message: which of `names` are spelt nearly so, if any."""
    folded = {other.casefold(): other for other in names}
    near = [folded[key] for key in difflib.get_close_matches(str(name).casefold(), folded, 2)]
    return f" (near: {'; '.join(near)})" if near else ""


def clean_name(label: str) -> str:
    """White space, line ends too, counts as one space, accents are composed (NFC).

    Characters that nobody sees are left out.
    """
    return unicodedata.normalize("NFC", " ".join(label.translate(_INVISIBLE).split()))


def match_classes(
    theirs: Sequence[str],
    ours: Sequence[str],
    source: object,
    class_map: str | os.PathLike[str] | None = None,
    unmapped: str = "error",
    remedy: str = "",
) -> Columns:
    """For each class of the data the classes of a file or teacher of which it has the maximum.

    Args:
      theirs, ours: classes of the file or teacher, and of the data, by names or AudioSet's MIDs.
      source: what messages call the file or teacher.
      class_map: CSV class,teacher_class. Classes of the data without a row are matched by equal
        names or MIDs; a row without teacher_class leaves the class without any.
      unmapped: "error" refuses a class without any; else it has ().
      remedy: what the messages advise.

    Raises UserError, with near names for a class that is not there.
    """
    numbers = {comparable_name(name): number for number, name in enumerate(theirs)}
    if len(numbers) < len(theirs):
        raise UserError(f"{source} names a class twice, or a class and its MID")
    columns: dict[str, tuple[int, ...]] = {
        name: (numbers[comparable_name(name)],) for name in ours if comparable_name(name) in numbers
    }
    if class_map:
        columns |= _read_class_map(class_map, theirs, ours, source)
    lacking = [name for name in ours if not columns.get(name)]
    if len(lacking) == len(ours):
        raise UserError(
            f"{source} has none of the data's classes. It has {list_first(theirs)}; the data has "
            f"{list_first(ours)}. {remedy}"
        )
    if lacking and unmapped == "error":
        lines = "; ".join(f"{name}{near_names(name, theirs)}" for name in lacking[:_SHOWN])
        more = f" and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
        raise UserError(
            f"{source} lacks {len(lacking)} of the data's {len(ours)} classes: {lines}{more}. "
            f"{remedy}"
        )
    return [columns.get(name, ()) for name in ours]


def _read_class_map(
    path: str | os.PathLike[str], theirs: Sequence[str], ours: Sequence[str], source: object
) -> dict[str, tuple[int, ...]]:
    class_names = {comparable_name(name): name for name in ours}
    numbers = {comparable_name(name): number for number, name in enumerate(theirs)}
    columns: dict[str, list[int]] = {}
    for line, row in csv_files.read_rows(path, ("class", "teacher_class")):
        name, other = (comparable_name(row[column]) for column in ("class", "teacher_class"))
        if name not in class_names:
            near = near_names(name, ours)
            raise UserError(f"{path}, line {line}: the data has no class {name!r}{near}")
        if other and other not in numbers:
            near = near_names(other, theirs)
            raise UserError(f"{path}, line {line}: {source} has no class {other!r}{near}")
        matches = columns.setdefault(class_names[name], [])
        matches += [numbers[other]] if other else []
    return {name: tuple(matches) for name, matches in columns.items()}


def draft_class_map(
    ours: Sequence[str], theirs: Sequence[str]
) -> list[tuple[str, str, Literal["equal", "case", "synonym", "spelling", ""]]]:
    """(class, teacher_class of the nearest name or "", how it was found) for each of our classes.

    Synonyms are those between the commas of AudioSet's names, as in "Crying, sobbing".
    """
    equal = {comparable_name(name): name for name in theirs}
    folded = {_fold_name(name): name for name in theirs}
    synonyms = {part: name for name in reversed(theirs) for part in _list_synonyms(name)}
    sorted_words = {_sort_words(part): name for part, name in synonyms.items()}
    draft: list[tuple[str, str, Any]] = []
    for name in ours:
        comparable = comparable_name(name)
        parts = _list_synonyms(comparable)
        words = _sort_words(_fold_name(comparable))
        near = difflib.get_close_matches(words, sorted_words, 1, _LEAST_SIMILARITY)
        if comparable in equal:
            draft.append((name, equal[comparable], "equal"))
        elif _fold_name(comparable) in folded:
            draft.append((name, folded[_fold_name(comparable)], "case"))
        elif shared := [part for part in parts if part in synonyms]:
            draft.append((name, synonyms[shared[0]], "synonym"))
        elif near:
            draft.append((name, sorted_words[near[0]], "spelling"))
        else:
            draft.append((name, "", ""))
    return draft


def _fold_name(name: str) -> str:
    """Folds case, and makes spaces of "_" and "-" and all that is no letter or digit."""
    return " ".join(re.findall(r"\w+", name.replace("_", " ").casefold()))


def _sort_words(folded_name: str) -> str:
    """Sorts words, so that "clock alarm" is spelt as "alarm clock" is."""
    return " ".join(sorted(folded_name.split()))


def _list_synonyms(name: str) -> list[str]:
    """Lists the folded names between commas, and those that AudioSet has beside any of them."""
    parts = _split_name(name)
    return parts + [part for own in parts for part in _audioset_synonyms().get(own, ())]


def _split_name(name: str) -> list[str]:
    """Splits "Crying, sobbing" at its commas, after the whole name without "and"."""
    whole = " ".join(word for word in _fold_name(name).split() if word != "and")
    parts = re.sub(r"\(.*\)", "", name).split(",")
    return [whole, *filter(None, map(_fold_name, parts))]


@cache
def _audioset_synonyms() -> dict[str, list[str]]:
    return {part: parts for parts in map(_split_name, audioset_classes()) for part in parts}


def select_columns(values: np.ndarray, columns: Columns) -> np.ndarray:
    """Values [n, classes of the file] as [n, classes of the data]; NaN for classes without any."""
    selected = np.full((len(values), len(columns)), np.nan, np.float32)
    single = [number for number, theirs in enumerate(columns) if len(theirs) == 1]
    selected[:, single] = values[:, [columns[number][0] for number in single]]
    for number, theirs in enumerate(columns):
        if len(theirs) > 1:
            selected[:, number] = values[:, list(theirs)].max(axis=1)
    return selected


def name_columns(
    names: Sequence[str] | None, width: int, path: str | os.PathLike[str], remedy: str
) -> tuple[str, ...]:
    """Names of the `width` classes of a file: `names`, or AudioSet's 527 or YAMNet's 521.

    Raises UserError for none, or not so many; `remedy` says how they are given.
    """
    if names is None:
        by_mid = _audioset_names()
        yamnet = [name for mid, name in by_mid.items() if mid not in _MIDS_NOT_IN_YAMNET]
        names = {len(by_mid): audioset_classes(), len(yamnet): yamnet}.get(width)
    if names is None:
        raise UserError(f"{path} has {width} classes and does not name them: {remedy}")
    if len(names) != width:
        raise UserError(f"{path} has {width} classes, and the list of them has {len(names)}")
    return tuple(map(str, names))


def classes_beside(
    path: str | os.PathLike[str], width: int, other_remedy: str = ""
) -> tuple[str, ...]:
    """Names of a file's `width` classes: those in FILE.classes.csv, or of a list of that length.

    Raises UserError, see `name_columns`, whose remedy `other_remedy` extends.
    """
    beside = f"{os.fspath(path)}.classes.csv"
    names = read_classes(beside)[0] if os.path.exists(beside) else None
    remedy = f"put their list beside it as {beside} (column label, or index,mid,display_name)"
    return name_columns(names, width, path, remedy + other_remedy)


def comparable_name(name: str) -> str:
    """A class name as it is compared: of AudioSet's MIDs their names."""
    return _audioset_names().get(name.strip(), clean_name(name))


@cache
def _audioset_names() -> dict[str, str]:
    """Display names of AudioSet's classes by MID."""
    names, mids = read_classes(AUDIOSET_CSV)
    return dict(zip(mids, names, strict=True))


def list_first(names: Iterable[str], most: int = _SHOWN) -> str:
    """The first of some names, each once, and how many more there are, for a message."""
    different = list(dict.fromkeys(names))
    more = f" and {len(different) - most} more" if len(different) > most else ""
    separator = "; " if any("," in name for name in different) else ", "
    return separator.join(different[:most]) + more
