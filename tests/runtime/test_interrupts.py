"""SIGTERM while something is written that must not be left half-way."""

import os
import signal
import subprocess

import forked_python
import pytest

from psl_jax.runtime import interrupts
from psl_jax.weights import orbax_folder


@pytest.fixture
def handled(monkeypatch):
    monkeypatch.setattr(interrupts, "write_stderr", lambda text: None)
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, interrupts._told_to_end)
    yield
    signal.signal(signal.SIGTERM, before)
    interrupts._terminated.clear()
    interrupts.set_answer(None)


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1"])
def test_each_of_these_ends_a_program_so_that_it_can_go_on(name):
    code = (
        "import os, signal; from psl_jax.runtime import cli_entry\n"
        f"cli_entry.run(lambda _: os.kill(os.getpid(), signal.{name}))"
    )
    done = subprocess.run([forked_python.path(), "-c", code], capture_output=True, text=True)
    assert done.returncode == 75 and f"told to end ({name})" in done.stderr


def test_nohup_keeps_its_meaning():
    code = (
        "import os, signal; from psl_jax.runtime import cli_entry\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "cli_entry.run(lambda _: os.kill(os.getpid(), signal.SIGHUP))"
    )
    assert subprocess.run([forked_python.path(), "-c", code]).returncode == 0


def test_it_is_answered_at_the_end(handled):
    done = []

    def write():
        with interrupts.defer_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("written")

    with pytest.raises(interrupts.Preempted):
        write()
    assert done == ["written"]


def test_what_answers_already_goes_on_answering(handled):
    asked = []
    interrupts.set_answer(lambda: asked.append("stop"))
    with interrupts.defer_signals():
        os.kill(os.getpid(), signal.SIGTERM)
    assert asked == ["stop"]


def test_what_orbax_reads_is_read_to_its_end(handled, tmp_path):
    done = []

    def read():
        with orbax_folder.explain_damage(tmp_path, "delete it"):
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("read")

    with pytest.raises(interrupts.Preempted):
        read()
    assert done == ["read"]
