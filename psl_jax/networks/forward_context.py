"""How a pass through the network is run."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from psl_jax.networks.convolutions import map_dtype


@dataclasses.dataclass(frozen=True)
class Context:
    """How a pass through the network is run; hashable.

    Attributes:
      train: use the batch's own statistics, update the running ones and apply dropout.
      frozen: in training, too, use the running statistics as they are.
      dtype: type of maps and of their products, on a CPU of the products alone; parameters,
        statistics, BatchNorms' affine map and the stem's product are float32 at least.
      axis_name: mesh axis over which the batch is split, and batch statistics are averaged.
      platform: that the program is for; None: this machine's.
      gives_logits: of frames, not their probabilities.
      channels_first: maps are [channels, frames, bands, batch] inside, see convolutions.
    """

    train: bool = False
    frozen: bool = False
    dtype: Any = jnp.float32
    axis_name: str | None = None
    platform: str | None = None
    channels_first: bool = False
    gives_logits: bool = False

    @property
    def map_dtype(self) -> Any:
        return map_dtype(self.dtype, self.platform)

    @property
    def channel_axis(self) -> int:
        return 0 if self.channels_first else -1

    def of_channels(self, values: jax.Array) -> jax.Array:
        """Values [channels], to be broadcast against a map."""
        return values[:, None, None, None] if self.channels_first else values

    def other_axes(self, x: jax.Array) -> tuple[int, ...]:
        """The axes of a map without that of its channels."""
        return tuple(range(1, x.ndim) if self.channels_first else range(x.ndim - 1))

    def device_mean(self, x: jax.Array) -> jax.Array:
        """The mean of x over all devices."""
        mean: jax.Array = x if self.axis_name is None else jax.lax.pmean(x, self.axis_name)
        return mean

    def count(self, x: jax.Array) -> int:
        """Values of each channel that statistics are taken over."""
        devices = 1 if self.axis_name is None else jax.lax.axis_size(self.axis_name)
        return x.size // x.shape[self.channel_axis] * devices
