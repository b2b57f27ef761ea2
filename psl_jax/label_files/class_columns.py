"""Which columns of a label file are those of the data's classes."""

from collections.abc import Sequence
from functools import cache

import numpy as np

from psl_jax.networks.class_lists import (
    AUDIOSET_CSV,
    audioset_classes,
    clean_name,
    near_names,
    read_classes,
)
from psl_jax.runtime.errors import UserError

# For each class of the data the columns of the file of which it has the maximum; () for none.
Columns = Sequence[Sequence[int]]

_SHOWN = 5


def by_name(theirs: Sequence[str], ours: Sequence[str], path: object, weak: bool) -> Columns:
    """One column for each class: the one of the same name, or of AudioSet's MID of that name.

    weak: a class that the file lacks has none (and keeps its weak labels). Else it is a UserError
    that lists near names.
    """
    column = {plain_name(name): number for number, name in enumerate(theirs)}
    if len(column) < len(theirs):
        raise UserError(f"{path} names a class twice, or a class and its MID")
    found = [column.get(plain_name(name), -1) for name in ours]
    lacking = [name for name, place in zip(ours, found, strict=True) if place < 0]
    if len(lacking) == len(ours):
        raise UserError(
            f"{path} has none of the data's classes. It has {', '.join(theirs[:_SHOWN])}, ...; "
            f"the data has {', '.join(ours[:_SHOWN])}, ..."
        )
    if lacking and not weak:
        lines = [f"  {name}{near_names(name, theirs)}" for name in lacking[:_SHOWN]]
        more = f"\n  and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
        raise UserError(
            f"{path} lacks {len(lacking)} of the data's {len(ours)} classes:\n"
            + "\n".join(lines)
            + f"{more}\n--unmapped=weak lets them keep their weak labels"
        )
    return [() if place < 0 else (place,) for place in found]


def select(values: np.ndarray, columns: Columns) -> np.ndarray:
    """Values [n, classes of the file] as [n, classes of the data]; NaN for classes without any."""
    out = np.full((len(values), len(columns)), np.nan, np.float32)
    single = [number for number, places in enumerate(columns) if len(places) == 1]
    out[:, single] = values[:, [columns[number][0] for number in single]]
    for number, places in enumerate(columns):
        if len(places) > 1:
            out[:, number] = values[:, list(places)].max(axis=1)
    return out


def of_file(stored: Sequence[str] | None, given: Sequence[str] | None, width: int, path: object):
    """The classes of a file of `width` columns: given ones, those it names, or AudioSet's 527.

    Raises UserError where they are not known, or not so many.
    """
    classes = given or stored
    if classes is None and width == len(audioset_classes()):
        classes = audioset_classes()
    if classes is None:
        raise UserError(
            f"{path} has {width} classes and does not name them; give their list: "
            "--classes=FILE.csv, with the column label, or index,mid,display_name"
        )
    if len(classes) != width:
        raise UserError(f"{path} has {width} classes, and the list of them has {len(classes)}")
    return tuple(map(str, classes))


def plain_name(name: str) -> str:
    """A class name as it is compared: of AudioSet's MIDs their names."""
    return audioset_names().get(name.strip(), clean_name(name))


@cache
def audioset_names() -> dict[str, str]:
    """Display names of AudioSet's classes by MID."""
    names, mids = read_classes(AUDIOSET_CSV)
    return dict(zip(mids, names, strict=True))
