"""SIGTERM while something is written that must not be left half-way."""

import os
import signal

import forked_python
import programs
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


def run(program):
    code = f"import os, signal; from psl_jax.runtime import cli_entry\n{program}"
    return programs.run([forked_python.path(), "-c", code])


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1"])
def test_each_of_these_ends_a_program_so_that_it_can_go_on(name):
    """It is no failure of what was being done, which `except Exception` would take."""
    body = f"with contextlib.suppress(Exception): os.kill(os.getpid(), signal.{name})"
    done = run(f"import contextlib\ndef main(_):\n  {body}\ncli_entry.run(main)")
    assert done.returncode == interrupts.RESTART == 75 and f"told to end ({name})" in done.stderr
    assert "Run the same command again to go on" in done.stderr


def test_nohup_keeps_its_meaning():
    ignores = "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    done = run(f"{ignores}cli_entry.run(lambda _: os.kill(os.getpid(), signal.SIGHUP))")
    assert done.returncode == 0


@pytest.mark.parametrize(
    "deferring",
    [interrupts.defer_signals, lambda: orbax_folder.explain_damage("folder", "delete it")],
    ids=["what is written", "what Orbax reads"],
)
def test_it_is_answered_at_the_end(handled, deferring):
    done = []

    def work():
        with deferring():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("done")

    with pytest.raises(interrupts.Preempted):
        work()
    assert done == ["done"]


def test_what_answers_already_goes_on_answering(handled):
    asked = []
    interrupts.set_answer(lambda: asked.append("stop"))
    with interrupts.defer_signals():
        os.kill(os.getpid(), signal.SIGTERM)
    assert asked == ["stop"]
