"""What all entry points do with errors, as processes of their own."""

import signal
import subprocess
import sys

PRINTS = "print('a line', flush=True)"


def run(body):
    code = f"from psl_jax.runtime import entry\ndef main(_):\n  {body}\nentry.run(main)"
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_reader_that_leaves_ends_the_program_quietly():
    with run(f"while True: {PRINTS}") as process:
        assert process.stdout.readline() == "a line\n"
        process.stdout.close()  # as `| head -1` does
        assert process.wait(60) == 141
        assert process.stderr.read() == ""


def test_errors_that_a_user_can_mend_are_one_message():
    process = run("raise __import__('psl_jax').UserError('clip 7 is damaged')")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (2, "", "\nerror: clip 7 is damaged\n")


def test_interrupted():
    process = run("raise KeyboardInterrupt")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "run the same command again" in err


def test_a_first_interrupt_is_answered_and_a_second_one_ends_at_once():
    body = """
  import time
  from psl_jax.runtime import interrupts
  interrupts.note_saved("psl2s, step 300")
  print("ready", flush=True)
  try:
    time.sleep(60)
  finally:
    time.sleep(60)  # threads that end, checkpoints that are written
"""
    with run(body) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == "\n"
        assert "stopping" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert "kept: psl2s, step 300. Run the same command again" in process.stderr.read()
