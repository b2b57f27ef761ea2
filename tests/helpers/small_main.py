"""psl_jax.main with a shallow network and empty figures, fast: python small_main.py ARGUMENTS

With DIE_AT set the process kills itself (SIGKILL) on the way: "batch 5" when the fifth batch of
training is about to be used, "shard 1" when that shard of soft labels is about to be written,
"file psl2s/metrics.json" when that file is. DIE_BY names another signal, such as SIGTERM: what is
done after it takes a second each time, so that the answer comes in time on any machine.
"""

import os
import pathlib
import runpy
import signal
import time

from small_figures import draw_nothing
from small_network import SHALLOW

from psl_jax.data import soft_labels
from psl_jax.networks import mobilenetv2
from psl_jax.reporting import figures
from psl_jax.runtime import files
from psl_jax.training import loop

mobilenetv2.INVERTED_RESIDUALS = SHALLOW
figures.Figure._draw = draw_nothing


def die_before(module, name, is_time):
    """Makes module.name kill the process where is_time(its arguments) is true."""
    function = getattr(module, name)
    is_signalled = False

    def dying(*args, **kwargs):
        nonlocal is_signalled
        if is_time(*args):
            os.kill(os.getpid(), signal.Signals[os.environ.get("DIE_BY", "SIGKILL")])
            is_signalled = True
        if is_signalled:
            time.sleep(1)
        return function(*args, **kwargs)

    setattr(module, name, dying)


what, _, where = os.environ.get("DIE_AT", "").partition(" ")
if what == "batch":
    used: list = []
    die_before(loop, "_device_inputs", lambda batch: used.append(0) or len(used) == int(where))
elif what == "shard":
    writer = soft_labels.SoftLabelWriter
    die_before(writer, "write_shard", lambda self, shard, rows: shard == int(where))
elif what == "file":
    die_before(files, "write_json", lambda path, value: pathlib.Path(path).match(f"*/{where}"))

runpy.run_module("psl_jax.main", run_name="__main__", alter_sys=True)
