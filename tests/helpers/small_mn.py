"""mn with few blocks, and with random weights of trained networks' sizes."""

import numpy as np

from psl_jax.networks import mn as module
from psl_jax.networks.mn import MN
from psl_jax.weights import pytorch_file

SHALLOW = (
    module.Row(3, 16, 16, False, False, 1),
    module.Row(5, 72, 24, True, False, 2),
    module.Row(3, 96, 24, True, True, 1),
)


def random_state(classes, width, seed=0):
    """A state dict with published names; statistics and scales are of trained networks' sizes."""
    rng = np.random.default_rng(seed)
    state = pytorch_file.convert_to_state(
        MN.create(classes, width, seed=seed)[1], MN, has_extras=False
    )
    for name, array in state.items():
        is_scale = array.ndim == 1 and name.endswith("weight")
        if is_scale or name.endswith("running_var"):
            state[name] = rng.uniform(0.5, 1.5, array.shape).astype(np.float32)
        elif array.ndim == 1:
            state[name] = rng.normal(0, 0.3, array.shape).astype(np.float32)
        elif "fc" in name or "classifier" in name:
            state[name] = array * (20 if "fc" in name else 8)
        else:  # so that what comes out differs with the audio
            deviation = (1.5 / array[0].size) ** 0.5
            state[name] = rng.normal(0, deviation, array.shape).astype(np.float32)
    return state
