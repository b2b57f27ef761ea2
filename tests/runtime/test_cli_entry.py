"""What all entry points do with errors, as processes of their own."""

import argparse
import importlib
import os
import pathlib
import pwd
import re
import signal
import sys
import time
from collections.abc import Iterator

import forked_python
import jax
import places
import programs
import pytest

from psl_jax import cli
from psl_jax.runtime import cli_entry, distributed, errors, interrupts, quiet_tensorflow
from psl_jax.runtime.errors import UserError
from psl_jax.weights import orbax_folder

# A long sleep at once would not see a signal that comes just before it.
DOZE = "def doze():\n  for _ in range(600): time.sleep(0.1)\n"
IMPORTS = "import time\nfrom psl_jax.runtime import cli_entry\n"


def code_of(body):
    return f"{IMPORTS}{DOZE}def main(_):\n  {body}\ncli_entry.run(main)"


def start(body):
    return programs.start([forked_python.path(), "-c", code_of(body)])


def run(body):
    """Its status and what it said."""
    done = programs.run([forked_python.path(), "-c", code_of(body)])
    return done.returncode, done.stdout, done.stderr


def test_a_reader_that_leaves_ends_the_program_quietly():
    with start("while True: print('a line', flush=True)") as process:
        assert process.stdout.readline() == "a line\n"
        process.stdout.close()  # as `| head -1` does
        assert process.wait(60) == 141
        assert process.stderr.read() == ""


HELP = "import sys; from psl_jax import cli; sys.argv = ['psl-jax', '--help']; cli.run()"


@pytest.mark.parametrize(
    "code",
    [
        code_of("from psl_jax.runtime import disk_errors; disk_errors.write_output('a' * 9)"),
        code_of("print('a line')"),  # of which Python would complain at its exit
        HELP,
    ],
)
def test_a_full_disk_behind_standard_output_is_one_line(code):
    with open("/dev/full", "w") as full:
        done = programs.run([forked_python.path(), "-c", code], stdout=full)
    told = "\nerror: cannot write to standard output: No space left on device\n"
    assert (done.returncode, done.stderr) == (2, told)


def test_help_for_a_reader_that_has_left():
    reading, writing = os.pipe()
    os.close(reading)
    assert programs.run([forked_python.path(), "-c", HELP], stdout=writing).stderr == ""
    os.close(writing)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise __import__('psl_jax').UserError('clip 7 is damaged')", "clip 7 is damaged"),
        ("open('/no/such/file')", "/no/such/file: No such file or directory"),
        ("import os; os.mkdir('/dev/null/x')", "/dev/null/x: Not a directory"),
        ("import os; os.rename('/proc/self/stat', '/dev/null/x')", "/dev/null/x: Not a directory"),
        ("raise OSError(28, 'No space left on device')", "a disk: No space left on device"),
    ],
)
def test_what_a_user_can_mend_is_one_message(body, told):
    status, out, err = run(body)
    assert (status, out.strip(), err) == (2, "", f"\nerror: {told}\n")


def test_a_crash_in_native_code_tells_the_line():
    _, _, err = run("__import__('os').abort()")
    assert "Fatal Python error: Aborted" in err and "in main" in err


def test_what_a_terminal_cannot_show_does_not_end_the_work(monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    status, out, err = run("print('→ done')")
    assert (status, err) == (0, "") and "done" in out


def test_standard_input_and_output_may_be_closed():
    code = "import sys\nfrom psl_jax.runtime import cli_entry\n"
    code += "cli_entry.run(lambda _: sys.stdout.isatty() or sys.stdin.buffer.read() or None)"
    done = programs.run(["sh", "-c", f"{sys.executable} -c '{code}' <&- >&-"])
    assert (done.returncode, done.stderr) == (0, "")


def test_the_home_of_an_option(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    given = ["--out=~/tags", "--out=~", "~/a.wav", "--labels=a~b", "tag"]
    expected = ["--out=/home/me/tags", "--out=/home/me", "~/a.wav", "--labels=a~b", "tag"]
    assert list(map(cli_entry.with_home, given)) == expected


@pytest.mark.parametrize("argument", ["--thresholds=", ""])
def test_a_value_that_is_empty_is_not_taken_for_none(argument):
    """As of "--thresholds=$FILE" where FILE is not set."""
    cli_entry.check_values(["tag", "a.wav", "--out=tags", "--config.teacher="])
    with pytest.raises(UserError, match=f"{argument or 'an argument'} is empty"):
        cli_entry.check_values(["tag", "a.wav", argument])


@pytest.mark.parametrize("cache", [None, "/some/cache"])
def test_a_user_may_have_no_home(monkeypatch, cache):
    """As in a container, whose user ids have no names."""
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda _: {}["no such user"])
    if cache is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
    kept = {}
    monkeypatch.setattr(jax.config, "update", lambda name, value: kept.update({name: value}))
    distributed.configure()
    assert kept.get("jax_compilation_cache_dir") == (cache and f"{cache}/psl_jax/xla")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model=gs://b/run"], "gs://b/run: this command reads"),
        (["--out", "gs://b"], "gs://b: this command reads"),
        (["a.wav", "gs://b/b.wav"], "gs://b/b.wav: this command reads"),
        (["--config.data.data_dir=az://b/x"], "az://b/x: expected gs:// or s3://"),
    ],
)
def test_a_bucket_is_not_taken_for_a_folder(arguments, told):
    beam = "--beam_options=--runner=DataflowRunner --temp_location=gs://b/tmp"
    others = [beam, "--workdir", "runs/gs", "http://x/y.wav", "odd:gs://"]
    cli_entry.check_places(others, takes_buckets=False)
    with pytest.raises(UserError, match=re.escape(told)):
        cli_entry.check_places([*others, *arguments], takes_buckets=False)


def test_commands_that_take_no_buckets_say_so(tmp_path):
    command = ["-m", "psl_jax", "thresholds", "model", "--csv=gs://b/x.csv"]
    where = {"PYTHONPATH": str(places.ROOT)}
    done = programs.run([forked_python.path(), *command], where, cwd=tmp_path)
    assert done.returncode == 2 and "gs://b/x.csv: this command" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_platform_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "nonsense")
    # JAX reads the variable when it is imported, which was before the program.
    body = "import jax; jax.config.update('jax_platforms', 'nonsense'); jax.devices()"
    status, _, err = run(body)
    assert status == 2 and "JAX_PLATFORMS is 'nonsense'" in err and "Traceback" not in err


def test_told_to_end_inside_a_callback_that_lets_no_exception_out():
    body = """
  import gc, os, signal, time
  sent = []
  def send(*_):
      if not sent:
          sent.append(0)
          os.kill(os.getpid(), signal.SIGTERM)
          for _ in range(1000): pass
  gc.callbacks.append(send)
  gc.collect()
  time.sleep(60)
"""
    status, _, err = run(body)
    assert status == interrupts.RESTART and "Exception ignored" not in err


def test_interrupted():
    message, status = cli_entry._explain(KeyboardInterrupt())
    assert status == 130 and "run the same command again" in message


# The second takes minutes, in which no handler runs.
@pytest.mark.parametrize("work", ["doze()", "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**8)"])
def test_a_first_interrupt_is_answered_and_a_second_one_ends_at_once(work):
    body = f"""
  import hashlib
  try:
    print("ready", flush=True)
    {work}
  finally:
    doze()  # threads that end, checkpoints that are written
"""
    with start(body) as process:
        assert process.stdout.readline() == "ready\n"
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == "\n"
        assert "stopping" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130 and time.monotonic() - began < 20
        assert "checkpoints. Run the same command again" in process.stderr.read()


LOSSES = [
    "Gloo all-reduce failed: Connection closed by peer [127.0.0.1]:31406",
    "Timeout waiting at barrier 'sync'. UNAVAILABLE: Failed to send RPC to coordination service.",
]


@pytest.mark.parametrize("words", LOSSES)
def test_the_loss_of_another_process_is_told_in_words(monkeypatch, words):
    """Also where a model is read, for which Orbax waits at a barrier: the model is not damaged."""
    monkeypatch.setattr(errors, "has_joined_others", lambda: True)
    with (
        pytest.raises(ValueError, match=re.escape(words)) as caught,
        orbax_folder.explain_damage(pathlib.Path("run/averaged/weights"), "delete it"),
    ):
        raise ValueError(words)
    message, status = cli_entry._explain(caught.value)
    assert status == interrupts.RESTART and words[:40] in message
    assert "another process of this run has ended or was killed" in message


def test_where_jax_finds_no_devices_no_model_is_said_to_be_damaged(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices("nonsense"))
    with (
        pytest.raises(RuntimeError, match="nonsense"),
        orbax_folder.explain_damage(pathlib.Path("run/averaged/weights"), "delete it"),
    ):
        jax.local_devices()


def test_where_tensorflow_is_missing_the_message_says_what_it_is_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    quiet_tensorflow.tensorflow_quietly.cache_clear()
    with pytest.raises(UserError, match=r"needs the package tensorflow.*prepares data"):
        quiet_tensorflow.tensorflow_quietly()


def parsers_of(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_flag_says_what_it_is_and_its_default(command, monkeypatch):
    parsers = []

    def keep(parser, arguments):
        parsers.extend(parsers_of(parser))
        raise SystemExit

    for method in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(argparse.ArgumentParser, method, keep)
    with pytest.raises(SystemExit):
        importlib.import_module(cli.module_of(command)).parse([command])
    for action in (action for parser in parsers for action in parser._actions):
        if isinstance(action, argparse._SubParsersAction):
            continue
        assert action.help and len(action.help.split()) > 2, action.dest
        is_value = action.option_strings and action.nargs != 0
        if is_value:
            assert "default: " in action.help or "(required" in action.help, action.dest


@pytest.mark.parametrize("option", ["-m", "-um"])
def test_the_former_module_of_a_command_says_the_new_form_and_runs_it(option):
    command = [sys.executable, option, "psl_jax.tag", "--help"]
    done = programs.run(command, {"PYTHONPATH": str(places.ROOT)})
    assert done.returncode == 0 and done.stdout.startswith("usage: psl-jax tag")
    assert "psl-jax tag, or python -m psl_jax tag" in done.stderr
