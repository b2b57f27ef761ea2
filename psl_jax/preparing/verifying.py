"""Reads every record of a prepared data set, and compares it with the index."""

import dataclasses
import functools
import os
import pathlib
import time
from typing import Any

import numpy as np

from psl_jax.corpora.clip_rows import Clip
from psl_jax.data import record_files, split_index_files
from psl_jax.data.clip_index import ClipIndex
from psl_jax.preparing import preparation_report
from psl_jax.runtime import files, progress
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.ordered_map import ordered_map
from psl_jax.runtime.paths import local_copy


@dataclasses.dataclass
class Findings:
    """Counts of what was read, and the damage."""

    records: int = 0
    num_bytes: int = 0
    seconds: float = 0.0
    damage: list[str] = dataclasses.field(default_factory=list)  # begins with the file's path

    def to_lines(self) -> list[str]:
        rate = self.num_bytes / 1e6 / max(self.seconds, 1e-9)
        read = f"{self.records} records, {self.num_bytes / 1e9:.2f} GB, {rate:.0f} MB/s"
        if not self.damage:
            return [f"{read}: all whole, checksums and contents"]
        return [*self.damage, f"{read}: {len(self.damage)} damaged files or records"]


def verify(data_dir: str, num_workers: int | None = None) -> Findings:
    """Reads all shards: checksums, ids, lengths, labels, and audio by its digest.

    Memory: a record for each of `num_workers`. Raises UserError where there is no data set.
    """
    findings, start_time = Findings(), time.monotonic()
    splits = split_index_files.stored_splits(data_dir)
    findings.damage += _check_report(data_dir)
    for split in splits:
        index = split_index_files.saved_index(data_dir, split)
        sizes = split_index_files.shard_sizes(data_dir, split)
        if index is None or not np.array_equal(index.shard_sizes, sizes):
            path = split_index_files.index_path(data_dir, split)
            findings.damage.append(f"{path}: missing, damaged or of other data")
            continue
        paths = split_index_files.shard_names(data_dir, split)
        find_damage = functools.partial(_find_damage, index)
        results = ordered_map(find_damage, enumerate(paths), num_workers)
        for damage in progress.track(results, len(paths), "shards", f"verify {split}"):
            findings.damage += damage
        findings.records += len(index)
        findings.num_bytes += sum(size or 0 for size in files.read_sizes(paths))
    findings.seconds = time.monotonic() - start_time
    return findings


def _check_report(data_dir: str) -> list[str]:
    """The damage of the report, and of unions that it tells of."""
    path = os.path.join(data_dir, preparation_report.REPORT_NAME)
    try:
        report = preparation_report.read_report(data_dir) or {}
        lost_splits = set(report.get("splits", {})) - set(split_index_files.splits(data_dir))
    except UserError as error:
        return [str(error)]
    except (ValueError, AttributeError) as error:
        return [f"{path}: damaged ({error})"]
    if not lost_splits:
        return []
    unions_path = os.path.join(data_dir, split_index_files.UNIONS_NAME)
    return [f"{unions_path}: missing, or without {', '.join(sorted(lost_splits))}"]


def _find_damage(index: ClipIndex, numbered_path: tuple[int, pathlib.Path]) -> list[str]:
    """The damage of a shard in words: one line, or one for each record that differs."""
    shard, path = numbered_path
    first_clip, end_clip = index.shard_offsets[shard : shard + 2].tolist()
    damage = []
    try:
        with local_copy(path) as local:
            records = record_files.read_records(local, end_clip - first_clip)
            for clip, record in zip(range(first_clip, end_clip), records, strict=True):
                if difference := _describe_difference(index, clip, record):
                    record_name = f"record {clip - first_clip}, clip {str(index.ids[clip])!r}"
                    damage.append(f"{path}: {record_name}: {difference}")
        size = path.stat().st_size
    except FileNotFoundError:
        return [f"{path}: missing"]
    except (record_files.DamagedRecordError, OSError) as error:
        return [*damage, f"{path}: {error}"]
    if index.record_bytes is not None:
        expected_size = int(index.record_bytes[first_clip:end_clip].sum())
        if size != expected_size:
            damage.append(f"{path}: {size} bytes, expected {expected_size}")
    return damage


def _describe_difference(index: ClipIndex, clip: int, record: memoryview) -> str:
    """Describes how a record differs from the index; empty where it does not."""
    features = record_files.parse_example(record)
    name, content = record_files.single_values(features, ("id", "audio"))
    clip_id, audio = bytes(name).decode(errors="replace"), np.frombuffer(content, "<i2")
    if clip_id != str(index.ids[clip]):
        return f"the record is of {clip_id!r}"
    labels = index.label_values[index.label_offsets[clip] : index.label_offsets[clip + 1]].tolist()
    unknown = np.flatnonzero(index.unknown_labels(np.array([clip]))[0]).tolist()
    expectations = {
        "samples": (len(audio), int(index.num_samples[clip]) * index.bytes_per_tick // 2),
        "labels": (_read_list(features, "labels"), labels),
    }
    if index.classes:
        expectations["unknown labels"] = (_read_list(features, "unknown_labels"), unknown)
    for what, (stored, expected) in expectations.items():
        if stored != expected:
            return f"{what} {stored}, expected {expected}"
    digests = index.audio_digests
    if digests is not None and Clip(clip_id, audio, ()).description.digest != int(digests[clip]):
        return "its audio is not that of the index"
    return ""


def _read_list(features: dict[str, record_files.Feature], name: str) -> list[Any]:
    return features[name].values if name in features else []
