"""The network on rows of different lengths in one array, as though there were no padding.

Before each 3x3 convolution what lies past a row's end is set to zero, which is what the convolution
itself assumes there. A row's outputs are then those of the network on that row alone, whatever the
length of the array, so that a few compiled programs serve audio of every length.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from psl_jax.mobilenetv2 import Context, InvertedResidual, MobileNetV2, Network, Variables

# Output frame i depends on the input frames from 32 i - REACH to 32 i + REACH and on no others.
REACH = 245


def embed_and_score(
    network: Network,
    variables: Variables,
    logmel: jax.Array,
    valid_frames: jax.Array,
    context: Context,
) -> tuple[jax.Array, jax.Array]:
    """Embeddings and class probabilities of each output frame.

    Args:
      network, variables: the network and its arrays.
      logmel: float32 [batch, frames, 64] in dB.
      valid_frames: int32 [batch] input frames of each row that are not padding.
      context: how to run; not in training.

    Returns:
      float32 [batch, output_frames(frames), 1280] and the same by [classes]; of a row the first
      output_frames(valid_frames) frames count.
    """
    module = nnx.merge(network.graphdef, *variables, copy=True)
    embedding = _features(module, logmel, valid_frames, context)
    return embedding, jax.nn.sigmoid(module.classifier(embedding))


def _features(
    module: MobileNetV2, logmel: jax.Array, valid: jax.Array, context: Context
) -> jax.Array:
    x = module.stem(_cut(logmel, valid), context)
    x = jax.nn.relu6(module.stem_norm(x, context))
    valid = _halved(valid)
    for block in module.blocks:
        x = _block(block, x, valid, context)
        if block.depthwise.stride == 2:
            valid = _halved(valid)
    x = jax.nn.relu6(module.head_norm(module.head(x, context), context))
    return x.astype(jnp.float32).mean(axis=2)  # over frequency


def _block(block: InvertedResidual, x: jax.Array, valid: jax.Array, context: Context) -> jax.Array:
    y = x
    if block.expand is not None and block.expand_norm is not None:
        y = jax.nn.relu6(block.expand_norm(block.expand(y, context), context))
    y = block.depthwise(_cut(y, valid), context)
    y = jax.nn.relu6(block.depthwise_norm(y, context))
    y = block.project_norm(block.project(y, context), context)
    return x + y if block.shortcut else y


def _cut(x: jax.Array, valid: jax.Array) -> jax.Array:
    """x [batch, frames, ...] with zeros from frame `valid` [batch] on."""
    inside = jnp.arange(x.shape[1]) < valid[:, None]
    return jnp.where(jax.lax.expand_dims(inside, range(2, x.ndim)), x, jnp.zeros((), x.dtype))


def _halved(frames: jax.Array) -> jax.Array:
    return (frames - 1) // 2 + 1
