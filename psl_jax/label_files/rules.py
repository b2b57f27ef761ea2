"""Rules by which soft labels are edited, and what they changed.

In this order: thresholds clean what the teacher said; then weak labels hold in every segment; then
what holds for a class of AudioSet's ontology holds for those above it. So the result is consistent
whatever the thresholds were.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.soft_labels import SoftLabels, SoftLabelWriter
from psl_jax.label_files.class_columns import audioset_names
from psl_jax.model.class_lists import clean_name
from psl_jax.runtime import csv_files, files, progress
from psl_jax.runtime.errors import UserError

PRESENT = 0.5  # from here on a label counts as present in the report


@dataclasses.dataclass(frozen=True)
class Rules:
    """What is done to soft labels [segments, classes].

    Attributes:
      thresholds: by class index: what is below becomes 0.
      binary: what a threshold leaves becomes 1.
      union_weak: the maximum with the clip's weak labels.
      above: for each class those of the data below it in the ontology; it has at least their
        maximum.
    """

    thresholds: Mapping[int, float] = dataclasses.field(default_factory=dict)
    binary: bool = False
    union_weak: bool = False
    above: Mapping[int, Sequence[int]] = dataclasses.field(default_factory=dict)

    def apply(self, values: np.ndarray, weak: np.ndarray) -> np.ndarray:
        """Edited labels, float16 [n, classes], of `values` [n, classes]; weak: as many rows."""
        out = np.array(values, np.float16)
        for number, threshold in self.thresholds.items():
            column = out[:, number]
            kept = column >= np.float16(threshold)
            out[:, number] = np.where(kept, 1 if self.binary else column, 0)
        if self.union_weak:
            out = np.maximum(out, weak.astype(np.float16))
        before = out.copy()
        for number, below in self.above.items():
            out[:, number] = before[:, [number, *below]].max(axis=1)
        return out

    def as_json(self, classes: Sequence[str]) -> dict[str, Any]:
        """What the manifest keeps of them."""
        return {
            "thresholds": {classes[k]: value for k, value in self.thresholds.items()},
            "binary": self.binary,
            "union_weak": self.union_weak,
            "above": {classes[k]: [classes[b] for b in of] for k, of in self.above.items()},
        }


class Changes:
    """Counts what rules changed, class by class."""

    def __init__(self, classes: Sequence[str]):
        self.classes = classes
        self.segments = 0
        self.counts = {name: np.zeros(len(classes), np.int64) for name in ("before", "after")}
        self.sums = {name: np.zeros(len(classes)) for name in ("before", "after")}
        self.changed = np.zeros(len(classes), np.int64)

    def add(self, before: np.ndarray, after: np.ndarray) -> None:
        """Takes labels [n, classes] before and after."""
        self.segments += len(before)
        for name, values in (("before", before), ("after", after)):
            self.counts[name] += (values >= PRESENT).sum(axis=0)
            self.sums[name] += values.sum(axis=0, dtype=np.float64)
        self.changed += (before != after).sum(axis=0)

    def result(self) -> dict[str, Any]:
        """As JSON: the whole, and by class; means and shares are of segments."""
        total = max(self.segments, 1)
        by_class = {
            name: {
                "present_before": int(self.counts["before"][k]),
                "present_after": int(self.counts["after"][k]),
                "mean_before": float(self.sums["before"][k] / total),
                "mean_after": float(self.sums["after"][k] / total),
                "share_changed": float(self.changed[k] / total),
            }
            for k, name in enumerate(self.classes)
        }
        return {
            "segments": self.segments,
            "present_from": PRESENT,
            "share_changed": float(self.changed.sum() / (total * len(self.classes))),
            "classes_changed": int((self.changed > 0).sum()),
            "present_before": int(self.counts["before"].sum()),
            "present_after": int(self.counts["after"].sum()),
            "classes": by_class,
        }


def edit(labels: SoftLabels, writer: SoftLabelWriter, rules: Rules) -> dict[str, Any]:
    """Writes edited labels shard by shard; returns what changed, see `Changes.result`."""
    index = labels.index
    changes = Changes(index.classes)
    missing = set(writer.missing)
    shards = range(len(index.shard_sizes))
    for shard in progress.track(shards, len(shards), "shard", "edit"):
        _, values, counts = labels.read_shard(shard)
        inside = np.arange(values.shape[1]) < counts[:, None]
        clips = np.arange(index.shard_offsets[shard], index.shard_offsets[shard + 1])
        weak = np.repeat(index.weak_labels(clips), counts, axis=0)
        before = values[inside]
        after = rules.apply(before, weak)
        changes.add(before, after)
        if shard in missing:
            parts = np.split(after, np.cumsum(counts)[:-1]) if len(counts) else []
            writer.write_shard(shard, parts)
    return changes.result()


def read_thresholds(given: Sequence[str], index: ClipIndex) -> dict[int, float]:
    """Thresholds by class index of `CLASS=0.3`, `0.3` (all classes) and files (class,threshold).

    The later one counts. Raises UserError for an unknown class, or a number outside 0 to 1.
    """
    number = {clean_name(name): k for k, name in enumerate(index.classes)}
    result: dict[int, float] = {}
    for one in given:
        if one.lower().endswith(".csv"):
            rows = csv_files.read_rows(one, ("class", "threshold"))
            pairs = [(row["class"], row["threshold"], f"{one}, line {line}") for line, row in rows]
            if unnamed := next((where for name, _, where in pairs if not name.strip()), None):
                raise UserError(f"{unnamed}: it names no class")
        else:
            name, equals, value = one.rpartition("=")
            if equals and not name.strip():
                raise UserError(f"--threshold {one}: it names no class; for all give {value}")
            pairs = [(name, value, f"--threshold {one}")]
        for name, value, where in pairs:
            threshold = _threshold(value, where)
            if not name:
                result |= dict.fromkeys(number.values(), threshold)
                continue
            known = clean_name(audioset_names().get(name.strip(), name))
            if known not in number:
                raise UserError(f"{where}: the data has no class {name!r}")
            result[number[known]] = threshold
    return dict(sorted(result.items()))


def _threshold(value: str, where: str) -> float:
    try:
        found = float(value)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise UserError(f"{where}: {value!r}, expected a number from 0 to 1, as in Speech=0.3")
    return found


def read_ontology(path: pathlib.Path, classes: Sequence[str]) -> dict[int, list[int]]:
    """For each class that has any the data's classes below it, at any depth, through others too.

    path: AudioSet's ontology.json: a list of {id, name, child_ids}. Its classes are those of the
    data of the same name, or of the name that AudioSet gives the id. Raises UserError for another
    form, a circle, or none of the data's classes.
    """
    children, numbers = _read_nodes(path, classes)
    result: dict[int, set[int]] = {}
    below: dict[str, set[int]] = {}

    def descendants(node: str, way: tuple[str, ...]) -> set[int]:
        if node in way:
            raise UserError(f"{path}: a circle: {' -> '.join((*way, node))}")
        if node not in below:
            found: set[int] = set()
            for child in children[node]:
                found |= descendants(child, (*way, node))
                if child in numbers:
                    found.add(numbers[child])
            below[node] = found
        return below[node]

    for node in children:
        found = descendants(node, ())
        if node in numbers and (others := found - {numbers[node]}):
            result.setdefault(numbers[node], set()).update(others)  # two nodes may have one name
    return {number: sorted(others) for number, others in sorted(result.items())}


def _read_nodes(
    path: pathlib.Path, classes: Sequence[str]
) -> tuple[dict[str, list[str]], dict[str, int]]:
    """(ids of children by id, class index by id)."""
    try:
        nodes = files.read_json(path)
        children = {node["id"]: [str(child) for child in node["child_ids"]] for node in nodes}
        names = {node["id"]: str(node["name"]) for node in nodes}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is no ontology ({error!r}): expected a list of {{id, name, child_ids}}, as "
            "AudioSet's ontology.json"
        ) from error
    if unknown := {child for of in children.values() for child in of} - children.keys():
        raise UserError(f"{path}: child {min(unknown)!r} is not among its classes")
    number = {clean_name(name): k for k, name in enumerate(classes)}
    found = {}
    for node, name in names.items():
        for known in (clean_name(name), audioset_names().get(node, "")):
            if known in number:
                found[node] = number[known]
    if not found:
        raise UserError(f"{path} has none of the data's classes, such as {classes[0]!r}")
    return children, found
