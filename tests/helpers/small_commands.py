"""Several commands one after the other, as the command line runs each, with a shallow network.

python small_commands.py '[["tag", "MODEL", "a.wav"], ...]'

One process, since what they import takes longer than what they do. Ends with the first status that
is not 0.
"""

import json
import sys

from small_network import SHALLOW

from psl_jax import cli
from psl_jax.networks import mobilenetv2

mobilenetv2.INVERTED_RESIDUALS = SHALLOW

for command in json.loads(sys.argv[1]):
    sys.argv = ["psl-jax", *command]
    try:
        cli.run()
    except SystemExit as ended:
        if ended.code:
            raise
