"""Scores of clips, kept shard by shard: an evaluation that is killed goes on where it was."""

import pathlib
from typing import Any

import jax
import numpy as np

from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.shard_arrays import ShardArrays
from psl_jax.data.source import Source
from psl_jax.runtime import files, parallel
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import remove_tree
from psl_jax.scoring.evaluation import (
    AnySegmentation,
    collect_shards,
    deal_shards,
    score_batches,
)
from psl_jax.scoring.scorer import SegmentScorer

MANIFEST = "evaluation.json"
_PARTS = "parts"  # folder of the shards


class StoredScores:
    """A folder with the scores of the shards of a split that are finished."""

    def __init__(self, folder: pathlib.Path, index: ClipIndex, made_with: dict[str, Any]):
        """made_with: what the scores depend on. Raises UserError where the folder has others."""
        self.folder, self.index = folder, index
        manifest = files.as_json(
            made_with
            | {
                "ids_in_order": files.json_digest(index.ids.tolist()),
                "shard_sizes": files.json_digest(index.shard_sizes.tolist()),
                "labels_sha256": index.labels_sha256,
                "audio_sha256": None if index.audio_digests is None else index.audio_sha256,
            }
        )
        path = folder / MANIFEST
        self.begun = path.exists()
        others = [name for name in ("metrics.json", "config.json") if (folder / name).exists()]
        if others and not self.begun:
            raise UserError(f"{folder} holds {others[0]} of something else. Give another --out")
        stored = files.read_json(path) if self.begun else manifest
        differing = sorted(k for k in {*stored, *manifest} if stored.get(k) != manifest.get(k))
        if differing:
            lines = [f"  {k}: {stored.get(k)!r} there, {manifest.get(k)!r} now" for k in differing]
            raise UserError(
                f"{folder} holds another evaluation:\n" + "\n".join(lines) + "\nGive another --out"
            )
        self._manifest = manifest
        # float32: in float16 many small scores would be equal, and ranks are what is measured.
        sizes = index.shard_sizes.tolist()
        self._arrays = ShardArrays(folder / _PARTS, "scores", sizes, None, np.float32)

    @property
    def missing(self) -> list[int]:
        """Shards without scores."""
        return self._arrays.missing

    def begin(self) -> None:
        """Writes what the scores will be of; all processes come here."""
        if jax.process_index() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            files.write_json(self.folder / MANIFEST, self._manifest)
        parallel.wait_for_all("evaluation begun")

    def write(self, shard: int, scores: np.ndarray) -> None:
        """Keeps the scores [clips, classes] of a shard."""
        self._arrays.write(shard, scores)

    def read(self) -> np.ndarray:
        """float32 [clips, classes] of all shards, in order."""
        shards = np.flatnonzero(self.index.shard_sizes).tolist()
        if not shards:
            return np.zeros((0, self.index.num_classes), np.float32)
        return np.concatenate([self._arrays.read(shard) for shard in shards])

    def forget(self) -> None:
        """Deletes the parts, once all is written elsewhere."""
        remove_tree(self.folder / _PARTS, ignore_errors=True)


def score_missing(
    scorer: SegmentScorer,
    source: Source,
    segmentation: AnySegmentation,
    stored: StoredScores,
    batch_size: int,
    description: str,
) -> None:
    """Scores the clips of all shards that are missing: a clip's score is its segments' mean.

    Shards are dealt out to the processes, which come back when all are done.
    """
    index, shards = source.index, deal_shards(stored.missing)
    ranges = [np.arange(*index.shard_offsets[shard : shard + 2]) for shard in shards]
    clips = np.concatenate([np.zeros(0, np.int64), *ranges])
    if len(clips):
        counts = segmentation.count_segments(index.num_samples)
        scored = score_batches(scorer, source, segmentation, batch_size, clips, description)
        for shard, scores in collect_shards(
            scored, index.shard_offsets, lambda batch: batch["clip"], counts
        ):
            stored.write(shard, scores)
    parallel.wait_for_all("evaluation scored")
