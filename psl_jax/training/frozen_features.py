"""A frozen network's features, computed once and kept in memory: its classifier trains on them."""

from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from typing import Any

import jax
import numpy as np

from psl_jax.data import batches
from psl_jax.data.batches import process_clips
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.segment_loader import Batch, Segments
from psl_jax.data.source import Source
from psl_jax.data.training_order import TrainingOrder
from psl_jax.networks.architecture import (
    OUTPUTS,
    FrontEnd,
    Network,
    Variables,
    clip_probabilities,
)
from psl_jax.networks.convolutions import product
from psl_jax.networks.folding import FoldedNetwork
from psl_jax.runtime import parallel, progress
from psl_jax.scoring.evaluation import AnySegmentation, compute_clip_means, score_batches
from psl_jax.scoring.scorer import Scorer, compute_ahead
from psl_jax.training.step import Recipe, features_program


def num_bytes(
    network: Network,
    variables: Variables,
    front_end: FrontEnd,
    *,
    segments: Segments,
    validation: ClipIndex,
) -> int:
    """About what the features of the segments and of the clips of a split take."""
    frames = int(network.output_frames(front_end.num_frames(segments.segmentation.segment_samples)))
    of_clips = network.output_frames(front_end.num_frames(validation.num_samples))
    channels = len(variables.params["classifier"]["kernel"])
    return 4 * channels * (len(segments) * frames + int(of_clips.sum()))


def compute_features(
    network: Network,
    variables: Variables,
    *,
    recipe: Recipe,
    segments: Segments,
    batch_size: int,
) -> np.ndarray:
    """Features float32 [segments, frames, channels] of a split, as a step would make them.

    Each process computes all of them, as training draws from the whole split.
    """
    mesh = parallel.local_mesh()
    program = features_program(network, recipe, mesh)
    arrays = parallel.replicate(parallel.to_host(variables), mesh)
    source, segmentation, total = segments.source, segments.segmentation, len(segments)
    channels = len(variables.params["classifier"]["kernel"])
    frames = network.output_frames(recipe.front_end.num_frames(segmentation.segment_samples))
    features, first = np.empty((total, frames, channels), np.float32), 0
    size = -(-batch_size // mesh.size) * mesh.size
    feed = batches.eval_batches(source, segmentation, batch_size=size)
    with progress.bar(total, "segment", "features", show=jax.process_index() == 0) as bar:
        for _, rows in compute_ahead(lambda _, inputs: program(arrays, inputs), feed, mesh):
            features[first : first + len(rows)] = rows
            first += len(rows)
            bar.update(len(rows))
    return features


def train_batches(
    features: np.ndarray, segments: Segments, *, order: TrainingOrder, start_step: int
) -> Iterator[Batch]:
    """The batches of `batches.train_batches` with `features` instead of audio."""
    for numbers in order.batches(segments, start_step):
        batch = segments.describe(numbers)
        yield {"features": features[numbers]} | {k: batch[k] for k in ("num_samples", "labels")}


def make_scorer(
    network: FoldedNetwork, recipe: Recipe, *, source: Source, cut: AnySegmentation, batch_size: int
) -> Callable[[dict[str, Any]], np.ndarray]:
    """Scores a split with one classifier after another, on embeddings of the first call.

    They are float32 [clips, classes], as those of `evaluation.score_clips`.
    """
    scorer = Scorer(
        network,
        recipe.front_end,
        recipe.dtype,
        count_padding=recipe.count_padding,
        gives="embeddings",
    )
    counts = cut.count_segments(source.index.num_samples)
    shares = process_clips(counts, jax.process_count())
    clips, program = shares[jax.process_index()], _classifier_program(recipe.output)

    @cache
    def embed() -> list[tuple[Batch, np.ndarray, np.ndarray]]:
        """Of each batch its clips, the embeddings of its rows, and the number of their frames."""
        kept = []
        for batch, embeddings in score_batches(scorer, source, cut, batch_size, clips):
            samples = batch["num_samples"]
            if recipe.count_padding:
                samples = np.full_like(samples, batch["audio"].shape[1])
            frames = network.output_frames(recipe.front_end.num_frames(samples))
            kept.append(({"clip": batch["clip"]}, embeddings, frames))
        return kept

    def score(classifier: dict[str, Any]) -> np.ndarray:
        arrays = parallel.to_host(classifier)
        scored = ((batch, np.asarray(program(arrays, *kept))) for batch, *kept in embed())
        means = compute_clip_means(scored, source.index, cut, clips)
        return parallel.gather_rows(means, [len(share) for share in shares])

    return score


@lru_cache
def _classifier_program(output: str) -> Callable[..., jax.Array]:
    """(classifier, embeddings [rows, frames, channels], frames that count) -> [rows, classes]"""

    def classify(
        arrays: dict[str, jax.Array], embeddings: jax.Array, frames: jax.Array
    ) -> jax.Array:
        probabilities = OUTPUTS[output](product(embeddings, arrays["kernel"]) + arrays["bias"])
        return clip_probabilities(probabilities, frames)

    return jax.jit(classify)
