"""Several commands one after the other, as `python -m` runs each, with a shallow network.

python small_commands.py '[["psl_jax.commands.tag", "MODEL", "a.wav"], ...]'

One process, since what they import takes longer than what they do. Ends with the first status that
is not 0.
"""

import json
import runpy
import sys

from small_network import SHALLOW

from psl_jax.networks import mobilenetv2

mobilenetv2.INVERTED_RESIDUALS = SHALLOW

for name, *arguments in json.loads(sys.argv[1]):
    sys.argv = [name, *arguments]
    try:
        runpy.run_module(name, run_name="__main__")
    except SystemExit as ended:
        if ended.code:
            raise
