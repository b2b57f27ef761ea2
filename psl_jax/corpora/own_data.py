"""A folder of one's own recordings, cut into clips; own_folder.py says what it looks like."""

import contextlib
import hashlib
import pathlib
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

from psl_jax.corpora.annotations.recording_names import RecordingNames
from psl_jax.corpora.annotations.table_events import Hints
from psl_jax.corpora.corpus import ClipRow, Corpus, Problem, make_mixing_key
from psl_jax.corpora.own_folder import SPLITS_CSV, OwnFolder, Recording, read_own_folder
from psl_jax.corpora.recording_clips import (
    MeasuredRecording,
    cut_recording,
    find_unlearnable,
    measure_all,
    path_of_row,
)
from psl_jax.data.settings import DataSettings
from psl_jax.networks.class_lists import list_first
from psl_jax.runtime import csv_files, files
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import path_of

SHARES = {"full": 0.7, "validation": 0.15, "eval": 0.15}
UNLABELLED = "unlabelled"  # the split of recordings that no table names
_SPLITS_COLUMNS = ("filename", "split")
_FEW_RECORDINGS = 20  # of eval
_COLUMNS = ("filename", "onset", "offset", "duration", "label")

_Measured = dict[str, list[MeasuredRecording]]  # by split


class OwnData(Corpus):
    """Recordings of a folder, cut into clips: each `{split}.csv` is a split, or they are made."""

    name = "own_data"

    def __init__(self, data: DataSettings):
        """Reads the tables of `source_dir`; raises UserError where they are of another form."""
        if not data.label_separator:
            raise UserError("data.label_separator is empty: expected a character such as ';'")
        self.max_clip_seconds = data.clip_seconds
        self._keeps_background = data.annotated == "throughout"
        hints = Hints(_read_columns(data.columns), data.event_label, _find_column(data.group_by))
        folder = self._folder = read_own_folder(
            data.source_dir, hints, data.label_separator, keeps_unlabelled=data.unlabelled
        )
        self.source_dir = folder.path
        self.classes, self.class_ids = folder.classes, folder.class_ids
        self.has_events = any(
            recording.events for split in folder.splits.values() for recording in split.values()
        )
        self.problems = list(folder.problems)
        self._splits: dict[str, str] = {}  # of each recording, where they are made
        tables_sha256 = folder.tables_sha256
        if folder.is_split_by_hand:
            splits = set(folder.splits)
            self.absent = folder.num_missing
        else:
            self._make_splits(folder, data.group_by, data.num_folds)
            splits = set(self._splits.values())
            text = "".join(f"{name}\t{split}\n" for name, split in sorted(self._splits.items()))
            digest = hashlib.sha256(text.encode(errors="surrogateescape"))
            digest.update(tables_sha256.encode())
            tables_sha256 = digest.hexdigest()
        if "balanced" not in splits and "full" in splits:
            self.unions = {"balanced": ["full"]}
        if folder.is_split_by_hand and "validation" not in splits and splits & {"balanced", "full"}:
            source = "full" if self.unions else "balanced"
            self.unions = {"validation": [source], **self.unions}
        self.settings = {
            "source_dir": self.source_dir,
            "clip_seconds": data.clip_seconds,
            "label_separator": data.label_separator,
            "annotated": data.annotated,
            "csv_sha256": tables_sha256,
        }
        given = {name: getattr(data, name) for name in ("columns", "event_label", "unlabelled")}
        self.settings |= {name: value for name, value in given.items() if value}
        self._problems_of_tables = tuple(self.problems)

    def _make_splits(self, folder: OwnFolder, group_by: str, num_folds: int) -> None:
        """Assigns recordings to splits by their groups, or as splits.csv says."""
        recordings = {name: r for name, r in folder.splits[""].items() if not r.is_unlabelled}
        wanted = [f"fold{k + 1}" for k in range(num_folds)] or list(SHARES)
        group_by = group_by or _choose_grouping(folder, recordings, len(wanted))
        path = path_of(self.source_dir) / SPLITS_CSV
        if path.exists():
            print(f"{path} gives the splits. Delete it to have them made anew")
            self._splits = read_splits(path, list(recordings))
        else:
            self._split_anew(recordings, group_by, num_folds, wanted)
            if {*self._splits.values()} - {"full"}:
                with contextlib.suppress(OSError):  # made again, the same, where nobody may write
                    files.write_csv(path, _SPLITS_COLUMNS, sorted(self._splits.items()))
                    print(f"{path} has the split of each recording: edit it to have others")
        self._place_unlabelled(folder.splits[""], group_by)
        if not recordings:
            self.unions = {split: [UNLABELLED] for split in ("balanced", *SHARES)}

    def _split_anew(
        self, recordings: dict[str, Recording], group_by: str, num_folds: int, wanted: Sequence[str]
    ) -> None:
        """Assigns recordings to the `wanted` splits, and tells what these lack."""
        column = {name: recording.group for name, recording in recordings.items()}
        group_of = groups_of(list(recordings), group_by, column)
        counts: dict[str, Counter[int]] = defaultdict(Counter)
        for name, recording in recordings.items():
            counts[group_of[name]].update(self._clips_per_class(recording.row))
        splits = assign_splits(counts, num_folds)
        self._splits = {name: splits[group] for name, group in group_of.items()}
        empty = [split for split in wanted if split not in splits.values()]
        if recordings and empty:
            detail = f"{len(splits)} groups are too few for {', '.join(wanted)}: nothing is in "
            detail += f"{', '.join(empty)}. Write splits.csv (filename,split)"
            if len(splits) < len(recordings):
                detail += ", or delete it where it is there and give --group_by=recording "
                detail += "(--config.data.group_by=recording)"
            self.problems.append((None, Problem(self.source_dir, "no splits", detail)))
        num_evaluated = list(self._splits.values()).count("eval")
        if 0 < num_evaluated < _FEW_RECORDINGS:
            print(
                f"note: eval has {num_evaluated} recordings, too few for scores to trust. "
                f"Delete {SPLITS_CSV} and train with --folds=all to evaluate on all recordings"
            )

    def _place_unlabelled(self, recordings: dict[str, Recording], group_by: str) -> None:
        """Puts recordings without labels into a split, but those of a group that is held out."""
        unlabelled = sorted(name for name, r in recordings.items() if r.is_unlabelled)
        if not unlabelled:
            return
        group_by = "recording" if _find_column(group_by) else group_by
        group_of = groups_of(list(recordings), group_by, {})
        held_out = {group_of[name] for name, split in self._splits.items() if split != "full"}
        for name in unlabelled:
            if group_of[name] in held_out:
                del recordings[name]
                detail = f"not labelled, and others of its group {group_of[name]!r} are held out "
                detail += "for validation or eval; left out. Give the --group_by "
                detail += "(--config.data.group_by) that splits.csv was made with"
                self.problems.append((None, Problem(name, "held out", detail)))
            else:
                self._splits[name] = UNLABELLED

    def _clips_per_class(self, row: ClipRow) -> Counter[int]:
        """Clips of each class in a recording, as far as they are known without opening it."""
        if row.events is None:
            return Counter(row.labels)
        seconds = self.max_clip_seconds
        clips = {
            (label, number)
            for onset, offset, label in row.events
            for number in range(int(onset // seconds), int(offset // seconds) + 1)
        }
        return Counter(label for label, _ in clips)

    def rows(self) -> Mapping[str, Sequence[ClipRow]]:
        folder = self._folder
        self.problems = list(self._problems_of_tables)
        paths = {
            name: path_of_row(recording.row)
            for recordings in folder.splits.values()
            for name, recording in recordings.items()
        }
        seconds = dict(zip(paths, measure_all(list(paths.values())), strict=True))
        splits = [split for split in folder.splits if split]
        if not splits:  # those that were made
            named = set(self._splits.values())
            splits = [split for split in SHARES if split in named]
            splits += sorted(named - SHARES.keys())
        measured: _Measured = {split: [] for split in splits}
        for split_of_tables, recordings in folder.splits.items():
            for name, recording in recordings.items():
                split = split_of_tables or self._splits[name]
                row, problems = recording.shorten_events(seconds[name])
                self.problems += [(split, problem) for problem in problems]
                if row is not None:
                    coverage = recording.find_coverage(
                        len(self.classes), keeps_background=self._keeps_background
                    )
                    measured[split].append(MeasuredRecording(row, seconds[name], coverage))
        for split in splits:
            measured[split].sort(key=lambda recording: make_mixing_key(recording.row.id))
            # An empty first split, or one by hand, is an error later.
            if not (measured[split] or folder.is_split_by_hand or split == splits[0]):
                del measured[split]
                detail = f"no recording is left for {split}"
                self.problems.append((None, Problem(self.source_dir, "no splits", detail)))
        clips, problems_of_cutting = self._cut(measured)
        all_clips = [clip for of_split in clips.values() for clip in of_split]
        if absent := find_unlearnable(all_clips, len(self.classes)):
            self._note_absent(absent, measured)
            clips, problems_of_cutting = self._cut(measured, absent)
        self.problems += problems_of_cutting
        return clips

    def _cut(
        self, measured: _Measured, absent: frozenset[int] = frozenset()
    ) -> tuple[dict[str, list[ClipRow]], list[tuple[str | None, Problem]]]:
        """The clips of each split, and (split, problem)."""
        clips: dict[str, list[ClipRow]] = {split: [] for split in measured}
        all_problems: list[tuple[str | None, Problem]] = []
        for split, recordings in measured.items():
            for recording in recordings:
                clips_of_recording, problems = cut_recording(
                    recording, self.max_clip_seconds, len(self.classes), absent
                )
                clips[split] += clips_of_recording
                all_problems += [(split, problem) for problem in problems]
        return clips, all_problems

    def _note_absent(self, classes: frozenset[int], measured: _Measured) -> None:
        """Says which classes clips without an event of them lack, though nobody said so."""
        unknown = {
            label
            for recordings in measured.values()
            for recording in recordings
            if not recording.coverage.is_told
            for label in classes - recording.coverage.classes
        }
        if not unknown:
            return
        shown = list_first([self.classes[label] for label in sorted(unknown)], 5)
        detail = f"{shown}: fewer clips are known to lack the class than to have it, so clips "
        detail += "without an event of it count as clips that lack it. A column annotated_classes, "
        detail += "or data.annotated=throughout, tells what is absent"
        print(f"note: {detail}")
        self.problems.append((None, Problem(self.source_dir, "counted as absent", detail)))


def _read_columns(text: str) -> dict[str, str]:
    """The columns of "filename=Datei, label=Klasse". Raises UserError."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    columns = {name.strip(): value.strip() for name, _, value in pairs}
    if wrong := [name for name, value in columns.items() if name not in _COLUMNS or not value]:
        raise UserError(
            f"data.columns is {text!r}: {wrong[0]!r} is wrong. Expected such as "
            f"'filename=Datei,label=Klasse', with some of {', '.join(_COLUMNS)}"
        )
    return columns


def _choose_grouping(folder: OwnFolder, recordings: Collection[str], num_splits: int) -> str:
    """Chooses what keeps recordings together where the user says nothing of it."""
    num_folders = len({posixpath.dirname(name) for name in recordings})
    if folder.folders_are_classes:
        return "recording"
    if num_folders >= num_splits:
        return "folder"
    if num_folders > 1:
        print(
            f"note: {num_folders} folders are too few to split by: the recordings of one may be "
            "in several of the splits (config.data.group_by)"
        )
    return "recording"


def _find_column(group_by: str) -> str:
    """The column that `data.group_by` names; "" where it names none."""
    return "" if "(" in group_by or group_by in ("recording", "folder") else group_by


# --- Splits: groups of recordings, as of a site or a day, go to one split as a whole --------------


def groups_of(
    recordings: Sequence[str], group_by: str, values: Mapping[str, str]
) -> dict[str, str]:
    """The group of each recording, which are paths relative to their folder.

    group_by: "recording", "folder", a pattern with a group in parentheses that is searched for in
      the path, or else a column, which holds `values`.

    Raises UserError where a recording has no group.
    """
    if group_by == "recording":
        return {name: name for name in recordings}
    if group_by == "folder":
        return {name: posixpath.dirname(name) for name in recordings}
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
    of the class, or of any, comes first where there are only just enough groups. No chance is
    involved. Fewer groups than splits cannot be split: all of them become `full`.

    groups: number of clips of each class in each group.
    """
    shares = {f"fold{k + 1}": 1 / num_folds for k in range(num_folds)} or SHARES
    if len(groups) < len(shares):
        return dict.fromkeys(groups, "full")
    totals: Counter[int] = Counter()
    for counts in groups.values():
        totals.update(counts)
    lacking = {s: {c: share * n for c, n in totals.items()} for s, share in shares.items()}
    places = {split: share * len(groups) for split, share in shares.items()}
    classes_of: dict[str, set[int]] = {split: set() for split in shares}
    left, filled = set(groups), set[str]()
    result: dict[str, str] = {}

    def find_needed() -> list[str]:
        """The splits without any group, where each group that is left is needed for one."""
        empty = [split for split in shares if split not in filled]
        return empty if len(left) <= len(empty) else []

    def put(group: str, split: str) -> None:
        result[group] = split
        filled.add(split)
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
            choices = find_needed() or choices
            put(group, max(choices, key=lambda s: (lacking[s][label], places[s])))
    for group in sorted(left, key=lambda g: hashlib.md5(g.encode()).digest()):
        put(group, max(find_needed() or shares, key=lambda s: places[s]))
    return result


def read_splits(path: pathlib.Path, recordings: Sequence[str]) -> dict[str, str]:
    """The split of each recording by the table, perhaps edited since. Raises UserError."""
    names = RecordingNames(recordings, path.parent)
    splits: dict[str, str] = {}
    for line, row in csv_files.read_rows(path, _SPLITS_COLUMNS):
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
