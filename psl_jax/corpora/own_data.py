"""A folder of one's own recordings, cut into clips; own_folder.py says what it looks like."""

import collections
import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence

from psl_jax.corpora import split_groups
from psl_jax.corpora.annotations.table_events import Hints
from psl_jax.corpora.clip_rows import ClipRow, Problem, mixed
from psl_jax.corpora.corpus import Corpus
from psl_jax.corpora.own_folder import OwnFolder, Recording, read_own_folder
from psl_jax.corpora.recording_clips import (
    Coverage,
    cut_recordings,
    find_unlearnable,
    measure_all,
    path_of_row,
)
from psl_jax.corpora.split_groups import SPLITS_CSV
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import path_of

UNLABELLED = "unlabelled"  # the split of recordings that no table names
_FEW_RECORDINGS = 20  # of eval
_COLUMNS = ("filename", "onset", "offset", "duration", "label")

_Coverages = dict[str, dict[str, Coverage]]  # by split and recording


class OwnData(Corpus):
    """Recordings of a folder, cut into clips: each `{split}.csv` is a split, or they are made."""

    name = "own_data"

    def __init__(
        self,
        *,
        source_dir: str | os.PathLike[str],
        clip_seconds: float = 10.0,
        label_separator: str = ";",
        annotated: str = "events_only",
        group_by: str = "",
        num_folds: int = 0,
        columns: str = "",
        event_label: str = "",
        unlabelled: bool = False,
    ):
        """See config.data. Reads the tables; raises UserError where they are of another form."""
        if clip_seconds <= 0 or not label_separator:
            raise UserError(
                "own_data: clip_seconds must be above 0 and label_separator not empty, got "
                f"{clip_seconds} and {label_separator!r}"
            )
        self.max_clip_seconds = clip_seconds
        self._keeps_background = annotated == "throughout"
        hints = Hints(_read_columns(columns), event_label, _column_of(group_by))
        folder = self._folder = read_own_folder(
            source_dir, hints, label_separator, keeps_unlabelled=unlabelled
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
            self._make_splits(folder, group_by, num_folds)
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
            "clip_seconds": clip_seconds,
            "label_separator": label_separator,
            "annotated": annotated,
            "csv_sha256": tables_sha256,
        }
        given = {"columns": columns, "event_label": event_label, "unlabelled": unlabelled}
        self.settings |= {name: value for name, value in given.items() if value}
        self._problems_of_tables = tuple(self.problems)

    def _make_splits(self, folder: OwnFolder, group_by: str, num_folds: int) -> None:
        """Assigns recordings to splits by their groups, or as splits.csv says."""
        recordings = {name: r for name, r in folder.splits[""].items() if not r.is_unlabelled}
        path = path_of(self.source_dir) / SPLITS_CSV
        if path.exists():
            print(f"{path} gives the splits. Delete it to have them made anew")
            self._splits = split_groups.read_splits(path, list(recordings))
        else:
            column = {name: recording.group for name, recording in recordings.items()}
            group_of = split_groups.groups_of(
                list(recordings), group_by, column, folder.folders_are_classes
            )
            counts: dict[str, Counter[int]] = collections.defaultdict(Counter)
            for name, recording in recordings.items():
                counts[group_of[name]].update(self._clips_per_class(recording.row))
            splits = split_groups.assign_splits(counts, num_folds)
            self._splits = {name: splits[group] for name, group in group_of.items()}
            wanted = [f"fold{k + 1}" for k in range(num_folds)] or list(split_groups.SHARES)
            empty = [split for split in wanted if split not in splits.values()]
            if recordings and empty:
                detail = f"{len(splits)} groups are too few for {', '.join(wanted)}: nothing is in "
                detail += f"{', '.join(empty)}. Give another --group_by (--config.data.group_by), "
                detail += "or write splits.csv (filename,split)"
                self.problems.append((None, Problem(self.source_dir, "no splits", detail)))
            if {*splits.values()} - {"full"} and split_groups.write_splits(path, self._splits):
                print(f"{path} has the split of each recording: edit it to have others")
            num_evaluated = list(self._splits.values()).count("eval")
            if 0 < num_evaluated < _FEW_RECORDINGS:
                print(
                    f"note: eval has {num_evaluated} recordings, too few for scores to trust. "
                    f"Delete {SPLITS_CSV} and train with --folds=all to evaluate on all recordings"
                )
        self._place_unlabelled(folder.splits[""], group_by)
        if not recordings:
            self.unions = {split: [UNLABELLED] for split in ("balanced", *split_groups.SHARES)}

    def _place_unlabelled(self, recordings: dict[str, Recording], group_by: str) -> None:
        """Puts recordings without labels into a split, but those of a group that is held out."""
        unlabelled = sorted(name for name, r in recordings.items() if r.is_unlabelled)
        if not unlabelled:
            return
        group_by = "recording" if _column_of(group_by) else group_by
        group_of = split_groups.groups_of(list(recordings), group_by, {}, False)
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
            splits = [split for split in split_groups.SHARES if split in named]
            splits += sorted(named - split_groups.SHARES.keys())
        rows: dict[str, list[ClipRow]] = {split: [] for split in splits}
        coverages: _Coverages = {split: {} for split in splits}
        for split_of_tables, recordings in folder.splits.items():
            for name, recording in recordings.items():
                split = split_of_tables or self._splits[name]
                row, problems = recording.shorten_events(seconds[name])
                self.problems += [(split, problem) for problem in problems]
                if row is not None:
                    rows[split].append(row)
                    coverages[split][name] = recording.find_coverage(
                        len(self.classes), keeps_background=self._keeps_background
                    )
        whole = {
            split: mixed(of_split)
            for split, of_split in rows.items()
            if of_split or folder.is_split_by_hand or split == splits[0]  # which is an error then
        }
        self.problems += [
            (None, Problem(self.source_dir, "no splits", f"no recording is left for {split}"))
            for split in splits
            if split not in whole
        ]
        clips, problems_of_cutting = self._cut(whole, seconds, coverages)
        all_clips = [clip for of_split in clips.values() for clip in of_split]
        if absent := find_unlearnable(all_clips, len(self.classes)):
            coverages = self._count_as_absent(absent, coverages)
            clips, problems_of_cutting = self._cut(whole, seconds, coverages)
        self.problems += problems_of_cutting
        return clips

    def _cut(
        self,
        whole: Mapping[str, Sequence[ClipRow]],
        seconds: Mapping[str, float | None],
        coverages: _Coverages,
    ) -> tuple[dict[str, list[ClipRow]], list[tuple[str | None, Problem]]]:
        """The clips of each split, and (split, problem)."""
        clips: dict[str, list[ClipRow]] = {}
        all_problems: list[tuple[str | None, Problem]] = []
        for split, rows in whole.items():
            clips[split], problems = cut_recordings(
                rows, seconds, self.max_clip_seconds, coverages[split], len(self.classes)
            )
            all_problems += [(split, problem) for problem in problems]
        return clips, all_problems

    def _count_as_absent(self, classes: frozenset[int], coverages: _Coverages) -> _Coverages:
        """Lets clips without an event of these classes lack them, where nobody said otherwise."""
        unknown = [
            classes - coverage.classes
            for of_split in coverages.values()
            for coverage in of_split.values()
            if not coverage.is_told
        ]
        names = [self.classes[label] for label in sorted(frozenset().union(*unknown))]
        if not names:
            return coverages
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        detail = f"{shown}: fewer clips are known to lack the class than to have it, so clips "
        detail += "without an event of it count as clips that lack it. A column annotated_classes, "
        detail += "or data.annotated=throughout, tells what is absent"
        print(f"note: {detail}")
        self.problems.append((None, Problem(self.source_dir, "counted as absent", detail)))
        return {
            split: {
                name: c if c.is_told else dataclasses.replace(c, classes=c.classes | classes)
                for name, c in of_split.items()
            }
            for split, of_split in coverages.items()
        }


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


def _column_of(group_by: str) -> str:
    """The column that `data.group_by` names; "" where it names none."""
    return "" if "(" in group_by or group_by in ("recording", "folder") else group_by
