"""The networks that there are."""

from psl_jax.networks.architecture import Architecture
from psl_jax.networks.mn import MN
from psl_jax.networks.mobilenetv2 import MOBILENET_V2

ARCHITECTURES: dict[str, Architecture] = {network.name: network for network in (MOBILENET_V2, MN)}
