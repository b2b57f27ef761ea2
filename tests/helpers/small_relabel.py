"""psl_jax.relabel with a shallow network, which compiles fast: python small_relabel.py ARGUMENTS"""

import runpy

from psl_jax.networks import mobilenetv2

mobilenetv2.INVERTED_RESIDUALS = ((1, 16, 1, 1), (6, 24, 1, 2), (6, 96, 1, 2))

runpy.run_module("psl_jax.commands.relabel", run_name="__main__", alter_sys=True)
