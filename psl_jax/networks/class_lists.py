"""Class lists: CSVs in the form of AudioSet's, and AudioSet's own."""

import difflib
import os
import pathlib
import unicodedata
from collections.abc import Sequence
from functools import cache

from psl_jax.runtime import csv_files
from psl_jax.runtime.errors import UserError

# AudioSet's class_labels_indices.csv, by Google, under CC BY 4.0: see audioset_classes.NOTICE.
AUDIOSET_CSV = pathlib.Path(__file__).with_name("audioset_classes.csv")


@cache
def audioset_classes() -> tuple[str, ...]:
    """Display names of AudioSet's 527 classes, in label order."""
    return read_classes(AUDIOSET_CSV)[0]


def read_classes(path: str | os.PathLike) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(names, ids) of a CSV with the columns `index,mid,display_name` or one column `label`.

    Raises UserError for a file that is not there or of another form.
    """
    header = csv_files.read_header(path, ("label",))
    if "label" not in header:
        header = csv_files.read_header(path, ("index", "mid", "display_name"))
    if "label" in header and "display_name" not in header:
        names = [clean_name(row["label"]) for _, row in csv_files.read_rows(path, ("label",))]
        class_ids = names
    else:
        rows = _numbered_rows(path)
        names = [clean_name(row["display_name"]) for row in rows]
        class_ids = [clean_name(row["mid"]) or clean_name(row["display_name"]) for row in rows]
    for what, values in (("class", names), ("mid", class_ids)):
        repeated = sorted({value for value in values if values.count(value) > 1})
        if repeated or "" in values:
            raise UserError(f"{path}: {what} named twice or empty: {repeated or 'empty name'}")
    if not names:
        raise UserError(f"{path} lists no class")
    return tuple(names), tuple(class_ids)


def _numbered_rows(path: str | os.PathLike) -> list[dict[str, str]]:
    """The rows in the order of their column `index`, which must count from 0 without gaps."""
    forms = "index,mid,display_name or one column label"
    table = csv_files.read_rows(path, ("index", "mid", "display_name"), expected=forms)
    rows = [row for _, row in table]
    try:
        rows.sort(key=lambda row: int(row["index"]))
        contiguous = [int(row["index"]) for row in rows] == list(range(len(rows)))
    except ValueError:
        contiguous = False
    if not contiguous:
        raise UserError(f"{path}: the column index must count 0, 1, 2, ... without gaps")
    return rows


def find_class(name: str, classes: Sequence[str]) -> int | None:
    """The number of the class of that name, or of that name in another case; None: there is none.

    Spaces around the name do not count, see `clean_name`.
    """
    for key in (clean_name, lambda text: clean_name(text).casefold()):
        found = [number for number, other in enumerate(classes) if key(other) == key(name)]
        if len(found) == 1:
            return found[0]
    return None


def near_names(name: str, names: Sequence[str]) -> str:
    """Words for a message: which of `names` are spelt nearly so, if any."""
    near = difflib.get_close_matches(name, names, 2)
    return f" (near: {'; '.join(near)})" if near else ""


def clean_name(label: str) -> str:
    """White space, line ends too, counts as one space: TFDS keeps class names one a line.

    Accents are composed (NFC): the same name comes in either spelling.
    """
    return unicodedata.normalize("NFC", " ".join(label.split()))
