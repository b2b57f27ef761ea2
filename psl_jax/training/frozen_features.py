"""A frozen network's features, computed once: what its classifier is trained and validated on."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from psl_jax.audio.segments import Segmentation
from psl_jax.data import batches
from psl_jax.data.batches import Batch
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.sampling import process_clips
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.data.sources import Source
from psl_jax.data.whole_clips import WholeClips
from psl_jax.model.convolutions import product
from psl_jax.model.frontend import num_frames
from psl_jax.model.mobilenetv2 import OUTPUTS, Network, Variables, output_frames
from psl_jax.runtime import parallel, progress
from psl_jax.scoring.evaluation import Cut, scored
from psl_jax.scoring.feature_files import FeatureFiles
from psl_jax.scoring.scorer import Scorer, computed_ahead, counted_frames
from psl_jax.training.step import Recipe, features_program

_ROWS_AT_ONCE = 4096  # frames that are classified at a time


def _channels(variables: Variables) -> int:
    return len(variables.params["classifier"]["kernel"])


def _by_shard(index: ClipIndex, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of `values` [clips] by shard, and in its shard before each clip: int64."""
    ends = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    sums = np.diff(ends[index.shard_offsets])
    first = np.repeat(ends[index.shard_offsets[:-1]], index.shard_sizes)
    return sums, ends[:-1] - first


def _own_shards(files: FeatureFiles) -> np.ndarray:
    """Clips, ascending, of the missing shards that are this process's to make."""
    own = [k for k in files.missing if k % jax.process_count() == jax.process_index()]
    offsets = files.index.shard_offsets
    return np.concatenate([np.zeros(0, np.int64), *(np.arange(*offsets[k : k + 2]) for k in own)])


def _is_first() -> bool:
    return jax.process_index() == 0


class TrainFeatures:
    """Of each segment of a split, as a step would make them: [frames, 1280]."""

    def __init__(
        self,
        folder: str | os.PathLike,
        source: Source,
        segmentation: Segmentation,
        recipe: Recipe,
        variables: Variables,
        digest: str,
    ):
        """digest: of the frozen network. Raises UserError where `folder` has other features."""
        self.source, self.segmentation, self.recipe = source, segmentation, recipe
        index = source.index
        rows, self._starts = _by_shard(index, segmentation.counts(index.num_samples))
        frames = output_frames(num_frames(segmentation.segment_samples))
        made_with = {
            "model": digest,
            "segmentation": dataclasses.asdict(segmentation),
            "front_end": dataclasses.asdict(recipe.logmel),
            "dtype": recipe.dtype,
            "count_padding": recipe.count_padding,
        }
        shape = (frames, _channels(variables))
        self.files = FeatureFiles(folder, index, rows, shape, made_with)

    def compute(
        self,
        network: Network,
        variables: Variables,
        batch_size: int,
        num_devices: int | None = None,
    ) -> None:
        """Computes those that are missing, on the devices of each process; all come here."""
        self.files.begin()
        clips = _own_shards(self.files)
        if len(clips):
            mesh = parallel.local_mesh(num_devices)
            program = features_program(network, self.recipe, mesh)
            arrays = parallel.replicate(parallel.to_host(variables), mesh)
            size = -(-batch_size // mesh.size) * mesh.size
            feed = batches.eval_batches(
                self.source, self.segmentation, batch_size=size, clips=clips
            )
            found = computed_ahead(lambda _, inputs: program(arrays, inputs), feed, mesh)
            with progress.bar(len(clips), "clip", "features", show=_is_first()) as bar:
                for batch, features in found:
                    self._write(batch, features)
                    bar.update(int((batch["segment"] == 0).sum()))
        parallel.wait_for_all(f"features computed {self.files.folder}")

    def _write(self, batch: Batch, features: np.ndarray) -> None:
        """Rows come in the order in which they are kept."""
        shards = self.source.index.shard_of(batch["clip"])
        for shard in np.unique(shards).tolist():
            mine = np.flatnonzero(shards == shard)
            first = self._starts[batch["clip"][mine[0]]] + batch["segment"][mine[0]]
            self.files.write(shard, int(first), features[mine])

    def batches(
        self, entries: Iterator[Batch], soft_labels: SoftLabels | None, alpha: float
    ) -> Iterator[Batch]:
        """The batches of `train_entries` with features instead of audio, and their labels."""
        index = self.source.index
        for entry in entries:
            clip, segment = entry["clip"], entry["segment"]
            labels = index.weak_labels(clip)
            if soft_labels is not None and alpha:
                soft = soft_labels.gather(clip)[np.arange(len(clip)), segment].astype(np.float32)
                labels = alpha * soft + (1 - alpha) * labels if alpha != 1 else soft
            yield {
                "features": self._gather(clip, segment),
                "num_samples": entry["num_samples"],
                "labels": labels,
            }

    def _gather(self, clip: np.ndarray, segment: np.ndarray) -> np.ndarray:
        """float32 [n, frames, 1280]"""
        out = np.empty((len(clip), *self.files.shape), np.float32)
        shards, rows = self.source.index.shard_of(clip), self._starts[clip] + segment
        for shard in np.unique(shards).tolist():
            mine = shards == shard
            out[mine] = self.files.read(shard)[rows[mine]]
        return out


class ValidationFeatures:
    """Of each frame of a split, as scoring would make them: [1280]."""

    def __init__(
        self,
        folder: str | os.PathLike,
        source: Source,
        cut: Cut,
        recipe: Recipe,
        variables: Variables,
        digest: str,
    ):
        """digest: of the frozen network. Raises UserError where `folder` has other features."""
        self.source, self.cut, self.recipe = source, cut, recipe
        index = source.index
        self.counts = cut.counts(index.num_samples)
        self._frames = self._frames_of(index.num_samples)
        rows, self._starts = _by_shard(index, self._frames.sum(axis=1))
        made_with = {
            "model": digest,
            "cut": dataclasses.asdict(cut) if isinstance(cut, Segmentation) else "whole",
            "front_end": dataclasses.asdict(recipe.logmel),
            "dtype": recipe.dtype,
            "count_padding": recipe.count_padding,
        }
        shape = (_channels(variables),)
        self.files = FeatureFiles(folder, index, rows, shape, made_with)

    def _frames_of(self, num_samples: np.ndarray) -> np.ndarray:
        """Frames that count in each segment: int64 [clips, segments], 0 after the last one."""
        cut = self.cut
        if isinstance(cut, WholeClips):
            return counted_frames(num_samples, cut.segment_samples, False)[:, None]
        segment = np.arange(self.counts.max(initial=1))
        valid = cut.valid_samples(num_samples[:, None], segment)
        frames = counted_frames(valid, cut.segment_samples, self.recipe.count_padding)
        return np.where(segment < self.counts[:, None], frames, 0)

    def compute(
        self, variables: Variables, batch_size: int, num_devices: int | None = None
    ) -> None:
        """Computes those that are missing, on the devices of each process; all come here."""
        self.files.begin()
        clips = _own_shards(self.files)
        if len(clips):
            scorer = Scorer(
                variables,
                self.recipe.logmel,
                self.recipe.dtype,
                num_devices,
                self.recipe.count_padding,
                gives="embeddings",
            )
            found = scored(scorer, self.source, self.cut, batch_size, clips)
            with progress.bar(len(clips), "clip", "validation features", show=_is_first()) as bar:
                for batch, maps in found:
                    self._write(batch, maps)
                    bar.update(int((batch["segment"] == 0).sum()))
        parallel.wait_for_all(f"features computed {self.files.folder}")

    def _write(self, batch: Batch, maps: np.ndarray) -> None:
        for clip, segment, rows in zip(batch["clip"], batch["segment"], maps, strict=True):
            first = int(self._starts[clip] + self._frames[clip, :segment].sum())
            shard = int(self.source.index.shard_of(clip))
            self.files.write(shard, first, rows[: self._frames[clip, segment]])

    def scores(self, classifier: dict[str, Any], num_devices: int | None = None) -> np.ndarray:
        """Clip scores float32 [clips, classes] of a classifier: as `evaluation.score_clips`."""
        index = self.source.index
        shares = process_clips(index, self.cut, jax.process_count())
        own = shares[jax.process_index()]
        mesh = parallel.local_mesh(num_devices)
        classify = _classifier_program(mesh, self.recipe.output)
        arrays = parallel.replicate(parallel.to_host(classifier), mesh)
        found = [np.zeros((0, index.num_classes), np.float32)]
        shards = index.shard_of(own)
        for shard in np.unique(shards).tolist():
            clips = own[shards == shard]
            frames = self._frames[clips]
            first = int(self._starts[clips[0]])
            rows = self.files.read(shard)[first : first + int(frames.sum())]
            found.append(_clip_means(_classified(classify, arrays, rows, mesh), frames))
        return parallel.gather_rows(np.concatenate(found), [len(clips) for clips in shares])


def _clip_means(probabilities: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Means over the frames of segments, and of these over clips: float32 [clips, classes].

    frames: of each segment [clips, segments], 0 after a clip's last one.
    """
    row, segment = np.nonzero(frames)
    lengths = frames[row, segment]
    starts = np.cumsum(lengths) - lengths
    means = np.add.reduceat(probabilities, starts, axis=0, dtype=np.float64) / lengths[:, None]
    counts = np.bincount(row, minlength=len(frames))
    sums = np.add.reduceat(means, np.cumsum(counts) - counts, axis=0)
    return (sums / counts[:, None]).astype(np.float32)


def _classified(
    classify: Callable, arrays: dict[str, Any], rows: np.ndarray, mesh: Mesh
) -> np.ndarray:
    """Probabilities [n, classes] of frames [n, 1280]; always of one shape on the devices."""
    size = -(-_ROWS_AT_ONCE // mesh.size) * mesh.size
    found = []
    for start in range(0, len(rows), size):
        part = np.zeros((size, rows.shape[1]), np.float32)
        real = rows[start : start + size]
        part[: len(real)] = real
        result = classify(arrays, parallel.put_batch({"x": part}, mesh)["x"])
        found.append(parallel.local_rows(result)[: len(real)])
    return np.concatenate(found)


@lru_cache
def _classifier_program(mesh: Mesh, output: str) -> Callable:
    def classify(arrays: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return OUTPUTS[output](product(x, arrays["kernel"]) + arrays["bias"])

    specs = (parallel.REPLICATED, parallel.SPLIT)
    return parallel.data_parallel(classify, mesh, specs, parallel.SPLIT)
