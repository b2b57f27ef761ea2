"""Splits of recordings: groups, as of a site or a day, go to one split as a whole."""

import collections
import hashlib
import pathlib
import posixpath
import re
from collections.abc import Mapping, Sequence

from psl_jax.corpora.annotations.recording_names import RecordingNames
from psl_jax.runtime import csv_files, files
from psl_jax.runtime.errors import UserError

SHARES = {"full": 0.7, "validation": 0.15, "eval": 0.15}
SPLITS_CSV = "splits.csv"
_COLUMNS = ("filename", "split")


def groups_of(
    recordings: Sequence[str], group_by: str, values: Mapping[str, str], folders_are_classes: bool
) -> dict[str, str]:
    """The group of each recording, which are paths relative to their folder.

    group_by: "recording", "folder", a pattern with a group in parentheses that is searched for in
      the path, or else a column, which holds `values`. Empty: the folder, or the recording where
      folders are classes or there is one folder only.

    Raises UserError where a recording has no group.
    """
    folders = {name: posixpath.dirname(name) for name in recordings}
    if not group_by:
        is_one = folders_are_classes or len(set(folders.values())) < 2
        group_by = "recording" if is_one else "folder"
    if group_by == "recording":
        return {name: name for name in recordings}
    if group_by == "folder":
        return folders
    if "(" not in group_by:
        if lacking := [name for name in recordings if not values.get(name)]:
            raise UserError(
                f"data.group_by is {group_by!r}: expected recording, folder, a pattern such as "
                f"'site(\\d+)_', or a column of the table, which is empty for {lacking[0]}"
            )
        return {name: values[name] for name in recordings}
    try:
        matches = {name: re.search(group_by, name) for name in recordings}
    except re.error as error:
        raise UserError(f"data.group_by is {group_by!r}, no pattern: {error}") from error
    if lacking := [name for name, match in matches.items() if match is None or match[1] is None]:
        raise UserError(f"data.group_by: the pattern {group_by!r} does not fit {lacking[0]}")
    return {name: "/".join(map(str, match.groups())) for name, match in matches.items() if match}


def assign_splits(groups: Mapping[str, Mapping[int, int]], num_folds: int = 0) -> dict[str, str]:
    """The split of each group: shares of every class as in SHARES, as far as groups allow.

    num_folds: instead, the splits are fold1, fold2, ... of equal shares.

    Iterative stratification (Sechidis et al. 2011) of groups: the rarest class first, its groups
    from the largest on, each to the split that lacks most of the class. A split without any group
    of the class comes first where there are only just enough groups. No chance is involved. Fewer
    groups than splits cannot be split: all of them become `full`.

    groups: number of clips of each class in each group.
    """
    shares = {f"fold{k + 1}": 1 / num_folds for k in range(num_folds)} or SHARES
    if len(groups) < len(shares):
        return dict.fromkeys(groups, "full")
    totals: collections.Counter[int] = collections.Counter()
    for counts in groups.values():
        totals.update(counts)
    lacking = {s: {c: share * n for c, n in totals.items()} for s, share in shares.items()}
    places = {split: share * len(groups) for split, share in shares.items()}
    classes_of: dict[str, set[int]] = {split: set() for split in shares}
    left = set(groups)
    result: dict[str, str] = {}

    def put(group: str, split: str) -> None:
        result[group] = split
        left.remove(group)
        places[split] -= 1
        classes_of[split] |= groups[group].keys()
        for label, count in groups[group].items():
            lacking[split][label] -= count

    def rank(group: str, label: int) -> tuple[int, bytes]:
        return -groups[group][label], hashlib.md5(group.encode()).digest()

    by_class = {label: {g for g, counts in groups.items() if label in counts} for label in totals}
    while waiting := {
        label: members & left for label, members in by_class.items() if members & left
    }:
        label = min(waiting, key=lambda c: (len(waiting[c]), totals[c], c))
        members = sorted(waiting[label], key=lambda group: rank(group, label))
        for number, group in enumerate(members):
            without = [split for split in shares if label not in classes_of[split]]
            choices = without if 0 < len(members) - number <= len(without) else list(shares)
            put(group, max(choices, key=lambda s: (lacking[s][label], places[s])))
    for group in sorted(left, key=lambda g: hashlib.md5(g.encode()).digest()):
        put(group, max(shares, key=lambda s: places[s]))
    return result


def read_splits(path: pathlib.Path, recordings: Sequence[str]) -> dict[str, str]:
    """The split of each recording by the table, perhaps edited since. Raises UserError."""
    names = RecordingNames(recordings, path.parent)
    splits: dict[str, str] = {}
    for line, row in csv_files.read_rows(path, _COLUMNS):
        where, split = f"{path}, line {line}", row["split"].strip()
        if not re.fullmatch(r"\w+", split, re.ASCII) or split == "all":
            raise UserError(f"{where}: {split!r} is no name of a split: letters, digits and _")
        name = names.find([row["filename"]], where)
        if name and splits.setdefault(name, split) != split:
            raise UserError(f"{where}: {name} is in {split} and in {splits[name]}. Delete one row")
    if lacking := [name for name in recordings if name not in splits]:
        raise UserError(
            f"{path} has no split for {len(lacking)} recordings, such as {lacking[0]}. Add them, "
            "or delete the file to split all anew"
        )
    return {name: splits[name] for name in recordings}


def write_splits(path: pathlib.Path, splits: Mapping[str, str]) -> bool:
    """Writes the table, for users to edit; returns whether that was possible."""
    try:
        files.write_csv(path, _COLUMNS, sorted(splits.items()))
    except OSError:  # a folder that cannot be written to: the splits are made again, the same
        return False
    return True
