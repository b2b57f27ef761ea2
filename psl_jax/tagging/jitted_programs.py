"""Jits the programs of tagging: the network on padded rows, and the loudest value of a window."""

from collections.abc import Callable
from functools import lru_cache

import jax
import jax.numpy as jnp

from psl_jax.networks.architecture import FrontEnd
from psl_jax.networks.folding import (
    FoldedNetwork,
    JaxOperations,
    frame_probabilities,
    scores_and_embeddings,
)
from psl_jax.networks.frontend import LogMel
from psl_jax.networks.mobilenetv2 import FRAME_SAMPLES

# Outputs that can be computed for each frame.
FRAME_SCORES, FRAME_EMBEDDINGS, SCORES_AND_EMBEDDINGS = "scores", "embedding", "both"


@lru_cache
def jit_program(front_end: FrontEnd, output: str) -> Callable[..., jax.Array]:
    """Jits the function (network, audio, num_samples, loudest) -> [batch, frames, values].

    A network with one output for all of a segment has it in each of the segment's frames.
    """

    def run(
        network: FoldedNetwork, audio: jax.Array, num_samples: jax.Array, loudest: jax.Array
    ) -> jax.Array:
        features = front_end.of_piece(audio, num_samples, loudest)
        arguments = features, JaxOperations(), front_end.num_frames(num_samples)
        values: jax.Array
        if output == FRAME_EMBEDDINGS:
            values = network.embeddings(*arguments)
        elif output == FRAME_SCORES:
            values = frame_probabilities(network, *arguments)
        else:
            values = scores_and_embeddings(network, *arguments)
        if values.shape[1] > 1:
            return values
        frames = audio.shape[1] // FRAME_SAMPLES + 1
        return jnp.broadcast_to(values, (len(values), frames, values.shape[2]))

    return jax.jit(run)


@jax.jit
def find_loudest(audio: jax.Array, frames: jax.Array) -> jax.Array:
    """Finds the loudest log-mel value [batch] of input frames frames[:, 0] to frames[:, 1]."""
    features = LogMel(top_db_over="none")(audio)
    frame_numbers = jnp.arange(features.shape[1])
    is_inside = (frame_numbers >= frames[:, :1]) & (frame_numbers < frames[:, 1:])
    return jnp.where(is_inside[..., None], features, -jnp.inf).max(axis=(1, 2))
