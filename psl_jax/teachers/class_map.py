"""Which of a teacher's classes are those of the data: a CSV `class,teacher_class`, or names."""

import os
from collections.abc import Sequence

from psl_jax.label_files.class_columns import Columns, plain_name
from psl_jax.networks.class_lists import AUDIOSET_CSV, near_names, read_classes
from psl_jax.runtime import csv_files
from psl_jax.runtime.errors import UserError

UNMAPPED = ("error", "drop", "weak")
_SHOWN = 5
# YAMNet has AudioSet's classes without these, in the same order.
_NOT_YAMNETS = {"/m/05zppz", "/m/02zsn", "/m/04gy_2", "/t/dd00003", "/t/dd00004", "/t/dd00032"}


def columns_of(
    theirs: Sequence[str],
    ours: Sequence[str],
    teacher: str,
    path: str | os.PathLike | None = None,
    unmapped: str = "error",
) -> Columns:
    """For each class of the data the teacher's classes of which it has the maximum.

    theirs: the teacher's, by names or MIDs; `teacher` names it. path: the CSV; classes of the data
    that it has no line for are found by equal names or MIDs. A line without teacher_class leaves
    the class without one. unmapped: "error" refuses a class without any; else it has ().
    Raises UserError, for a class of the CSV that is not there with near names.
    """
    place = {plain_name(name): number for number, name in enumerate(theirs)}
    found: dict[str, tuple[int, ...]] = {
        name: (place[plain_name(name)],) for name in ours if plain_name(name) in place
    }
    if path:
        found |= _of_file(path, theirs, ours, teacher)
    lacking = [name for name in ours if not found.get(name)]
    if len(lacking) == len(ours):
        raise UserError(
            f"{teacher} has none of the data's classes: it has {_few(theirs)}, the data has "
            f"{_few(ours)}; give a CSV class,teacher_class as class_map"
        )
    if lacking and unmapped == "error":
        lines = "; ".join(f"{name}{near_names(name, theirs)}" for name in lacking[:_SHOWN])
        more = f" and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
        raise UserError(
            f"{teacher} lacks {len(lacking)} of the data's {len(ours)} classes: {lines}{more}. "
            "Give a CSV class,teacher_class as class_map, or unmapped=weak (they keep their weak "
            "labels) or drop (0)"
        )
    return [found.get(name, ()) for name in ours]


def _of_file(
    path: str | os.PathLike, theirs: Sequence[str], ours: Sequence[str], teacher: str
) -> dict[str, tuple[int, ...]]:
    own = {plain_name(name): name for name in ours}
    place = {plain_name(name): number for number, name in enumerate(theirs)}
    found: dict[str, tuple[int, ...]] = {}
    for line, row in csv_files.read_rows(path, ("class", "teacher_class")):
        name, other = row["class"].strip(), row["teacher_class"].strip()
        known = own.get(plain_name(name))
        if known is None:
            near = near_names(name, ours)
            raise UserError(f"{path}, line {line}: the data has no class {name!r}{near}")
        if not other:
            found.setdefault(known, ())
        elif plain_name(other) not in place:
            near = near_names(other, theirs)
            raise UserError(f"{path}, line {line}: {teacher} has no class {other!r}{near}")
        else:
            found[known] = (*found.get(known, ()), place[plain_name(other)])
    return found


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def classes_of(path: os.PathLike | str, count: int, given: os.PathLike | str | None = None):
    """Names of a file's `count` classes: a list's, or those of AudioSet's or of YAMNet's.

    The list is `given`, or lies beside the file as FILE.classes.csv. Raises UserError where there
    is none, or one of another length.
    """
    beside = f"{os.fspath(path)}.classes.csv"
    listed = given or (beside if os.path.exists(beside) else None)
    if listed:
        names = read_classes(listed)[0]
        if len(names) != count:
            raise UserError(f"{path} has {count} classes, and {listed} names {len(names)}")
        return names
    names, mids = read_classes(AUDIOSET_CSV)
    if count == len(names):
        return names
    fewer = tuple(n for n, mid in zip(names, mids, strict=True) if mid not in _NOT_YAMNETS)
    if count == len(fewer):
        return fewer
    raise UserError(
        f"{path} has {count} classes and does not name them: put their list beside it as {beside} "
        "(column label, or index,mid,display_name)"
    )
