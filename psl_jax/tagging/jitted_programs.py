"""The jitted programs of tagging: the network on padded rows, and the loudest value of a part."""

import dataclasses
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

# What is computed of each frame.
SCORES, EMBEDDING, BOTH = "scores", "embedding", "both"


@lru_cache
def program(logmel: LogMel, output: str):
    """The jitted (network, audio, num_samples, loudest) -> [batch, output frames, values]."""
    walk = {SCORES: frame_probabilities, EMBEDDING: embeddings, BOTH: scores_and_embeddings}[output]

    def run(network: FoldedNetwork, audio: jax.Array, num_samples: jax.Array, loudest: jax.Array):
        features = dataclasses.replace(logmel, top_db_over="none")(audio)
        if logmel.top_db_over != "none":  # over a "batch": a waveform is a batch of its own here
            valid = frame_mask(num_samples, features.shape[1])[..., None]
            own = jnp.where(valid, features, -jnp.inf).max(axis=(1, 2))
            loudest = jnp.where(jnp.isnan(loudest), own, loudest)
            features = jnp.maximum(features, loudest[:, None, None] - logmel.top_db)
        return walk(network, features, JaxOperations(), num_frames(num_samples))

    return jax.jit(run)


@jax.jit
def loudest_of(audio: jax.Array, frames: jax.Array) -> jax.Array:
    """Loudest log-mel value [batch] of the input frames from frames[:, 0] to frames[:, 1]."""
    features = LogMel(top_db_over="none")(audio)
    number = jnp.arange(features.shape[1])
    inside = (number >= frames[:, :1]) & (number < frames[:, 1:])
    return jnp.where(inside[..., None], features, -jnp.inf).max(axis=(1, 2))
