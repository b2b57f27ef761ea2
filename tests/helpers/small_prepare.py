"""Preparations that die: forked from a process that has imported what they need.

`start` runs one in a child process. Every clip that is loaded is noted in a file, and the child
can be told to kill itself at a change of the file system, by its number.
"""

import multiprocessing
import os
import pathlib
import signal
import sys
import time
from multiprocessing import forkserver
from unittest import mock

from psl_jax.runtime.quiet_tensorflow import tensorflow_quietly

tensorflow_quietly()
import tensorflow_datasets  # noqa: E402, F401

from psl_jax.corpora import corpus  # noqa: E402
from psl_jax.data.settings import DataSettings  # noqa: E402
from psl_jax.preparing import prepare_corpus, split_writer  # noqa: E402

context = multiprocessing.get_context("forkserver")


def _start_server() -> None:
    """Starts what children are forked from; it looks for modules in PYTHONPATH only."""
    context.set_forkserver_preload(["small_prepare"])
    path = os.pathsep.join(filter(None, sys.path))
    with mock.patch.dict(os.environ, {"PYTHONPATH": path}):
        forkserver.ensure_running()


_CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")


def start(data, workdir, log, *, die_at=0, pause=0.0, clips_per_shard=2, quiet=True):
    """A started process. die_at: number of the change, from 1, before which it kills itself."""
    arguments = (data, workdir, log, die_at, pause, clips_per_shard, quiet)
    _start_server()
    process = context.Process(target=_run, args=arguments)
    process.start()
    return process


def loaded(log) -> list[str]:
    """Names of the files that were loaded so far, in order."""
    return log.read_text().split() if log.exists() else []


def _run(data: dict, workdir, log, die_at: int, pause: float, clips_per_shard: int, quiet: bool):
    split_writer.CLIPS_PER_SHARD, split_writer.MIN_SHARDS = clips_per_shard, 1
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if quiet:
        sys.stdout = sys.stderr
    load = corpus.load_clip
    note = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def noted(row, **settings):
        os.write(note, f"{row.filename}\n".encode())
        time.sleep(pause)
        return load(row, **settings)

    corpus.load_clip = noted
    seen = []

    def count(event, arguments):
        is_change = event in _CHANGES or (event == "open" and arguments[2] & os.O_CREAT)
        if is_change and str(arguments[0]).startswith(str(workdir)):
            seen.append(event)
            if len(seen) == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    prepare_corpus.prepare(DataSettings(**data), workdir, quiet=quiet)
    pathlib.Path(f"{log}.changes").write_text(str(len(seen)))
