"""Jits the programs of tagging: the network on padded rows, and the loudest value of a window."""

import dataclasses
from collections.abc import Callable
from functools import lru_cache

import jax
import jax.numpy as jnp

from psl_jax.networks.folding import (
    FoldedNetwork,
    JaxOperations,
    embeddings,
    frame_probabilities,
    scores_and_embeddings,
)
from psl_jax.networks.frontend import LogMel, frame_mask, num_frames

# Outputs that can be computed for each frame.
FRAME_SCORES, FRAME_EMBEDDINGS, SCORES_AND_EMBEDDINGS = "scores", "embedding", "both"


@lru_cache
def jit_program(logmel: LogMel, output: str) -> Callable[..., jax.Array]:
    """Jits the function (network, audio, num_samples, loudest) -> [batch, frames, values]."""
    compute: Callable[..., jax.Array] = {
        FRAME_SCORES: frame_probabilities,
        FRAME_EMBEDDINGS: embeddings,
        SCORES_AND_EMBEDDINGS: scores_and_embeddings,
    }[output]

    def run(
        network: FoldedNetwork, audio: jax.Array, num_samples: jax.Array, loudest: jax.Array
    ) -> jax.Array:
        features = dataclasses.replace(logmel, top_db_over="none")(audio)
        if logmel.top_db_over != "none":  # also for "batch": a waveform is a batch by itself here
            is_valid = frame_mask(num_samples, features.shape[1])[..., None]
            own_loudest = jnp.where(is_valid, features, -jnp.inf).max(axis=(1, 2))
            loudest = jnp.where(jnp.isnan(loudest), own_loudest, loudest)
            features = jnp.maximum(features, loudest[:, None, None] - logmel.top_db)
        return compute(network, features, JaxOperations(), num_frames(num_samples))

    return jax.jit(run)


@jax.jit
def find_loudest(audio: jax.Array, frames: jax.Array) -> jax.Array:
    """Finds the loudest log-mel value [batch] of input frames frames[:, 0] to frames[:, 1]."""
    features = LogMel(top_db_over="none")(audio)
    frame_numbers = jnp.arange(features.shape[1])
    is_inside = (frame_numbers >= frames[:, :1]) & (frame_numbers < frames[:, 1:])
    return jnp.where(is_inside[..., None], features, -jnp.inf).max(axis=(1, 2))
