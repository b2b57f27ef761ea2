"""SIGTERM or Ctrl-C while something is written that must not be left half-way."""

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
    ours = {signal.SIGTERM: interrupts._told_to_end, signal.SIGINT: interrupts._interrupted}
    before = {number: signal.signal(number, handler) for number, handler in ours.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    for state in (interrupts._terminated, interrupts._asked):
        state.clear()
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
@pytest.mark.parametrize(
    ("number", "raised"),
    [(signal.SIGTERM, interrupts.Preempted), (signal.SIGINT, KeyboardInterrupt)],
)
def test_it_is_answered_at_the_end(handled, deferring, number, raised):
    done = []

    def work():
        with deferring():
            with deferring():  # the outer one counts
                os.kill(os.getpid(), number)
            done.append("done")

    with pytest.raises(raised):
        work()
    assert done == ["done"]


def test_a_read_that_fails_after_ctrl_c_is_not_called_damage(handled):
    def read():
        with orbax_folder.explain_damage("folder", "delete it"):
            os.kill(os.getpid(), signal.SIGINT)
            raise RuntimeError("cannot schedule new futures after shutdown")

    with pytest.raises(KeyboardInterrupt):
        read()


def test_a_second_ctrl_c_ends_at_once_where_the_first_waits():
    body = """
  from psl_jax.runtime import interrupts
  with interrupts.defer_signals():
    os.kill(os.getpid(), signal.SIGINT)
    print("goes on", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    print("too far")
"""
    done = run(f"def main(_):{body}cli_entry.run(main)")
    assert (done.returncode, done.stdout) == (130, "goes on\n")
    assert "stopped at once" in done.stderr and "Traceback" not in done.stderr


def test_what_answers_already_goes_on_answering(handled):
    asked = []
    interrupts.set_answer(lambda: asked.append("stop"))
    with interrupts.defer_signals():
        os.kill(os.getpid(), signal.SIGTERM)
    assert asked == ["stop"]
