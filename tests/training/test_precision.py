"""In which precision programs multiply, read from the programs themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_mn
from jax.extend.core import jaxprs_in_params

from psl_jax.networks import mn as mn_module
from psl_jax.networks.available import ARCHITECTURES
from psl_jax.networks.frontend import LogMel
from psl_jax.runtime import parallel
from psl_jax.scoring.scorer import scoring_program
from psl_jax.training.step import Recipe, init_state, train_program


def products(jaxpr):
    """Types and precisions of all products and convolutions, those of inner programs too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            precision = equation.params["precision"]
            both = precision if isinstance(precision, tuple) else (precision, precision)
            yield equation.invars[0].aval.dtype, both
        for inner in jaxprs_in_params(equation.params):
            yield from products(getattr(inner, "jaxpr", inner))


@pytest.mark.parametrize(
    ("name", "platform"),
    # On the other platforms mn has MobileNetV2's products alone.
    [*(("mobilenet_v2", platform) for platform in ("cpu", "gpu", "tpu")), ("mn", "tpu")],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_float32_means_float32_on_every_backend(monkeypatch, dtype, platform, name):
    """Left to itself a TPU would multiply float32 as bfloat16, and a GPU as TF32."""
    architecture = ARCHITECTURES[name]
    monkeypatch.setattr(parallel, "platform_of", lambda mesh: platform)
    monkeypatch.setattr(parallel, "dtype_on", lambda platform, dtype: dtype)
    monkeypatch.setattr(mn_module, "TABLE", small_mn.SHALLOW)
    network, variables = architecture.create(3, 0.4, dropout=0.0)
    front_end = architecture.front_end(LogMel())
    mesh = parallel.data_mesh(1)
    audio, lengths = np.zeros((4, 8000), np.int16), np.full(4, 8000, np.int32)
    batch = {"audio": audio, "num_samples": lengths, "labels": np.zeros((4, 3), np.float32)}
    program = train_program.__wrapped__(network, Recipe(front_end, dtype=dtype), mesh)
    training = program.trace(init_state(variables), batch, 0.1)
    scoring = scoring_program.__wrapped__(front_end, dtype, mesh).trace(
        architecture.fold(variables, "sigmoid"), audio, lengths
    )
    highest = jax.lax.Precision.HIGHEST
    for program in (training, scoring):
        found = list(products(program.jaxpr.jaxpr))
        assert len(found) >= 10  # of four blocks
        for of, precisions in found:
            assert precisions == ((highest, highest) if of != jnp.bfloat16 else (None, None)), of
        narrow = [of for of, _ in found if of == jnp.bfloat16]
        assert (len(narrow) > 5) if dtype == "bfloat16" else not narrow
