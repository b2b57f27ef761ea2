"""Two processes and one folder: each file once, and what a killed one had claimed as well."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from psl_jax.tagging import claims
from psl_jax.tagging.tagged_files import Input

INPUTS = [Input(f"{i}.wav", f"{i}.wav") for i in range(6)]


def outputs(folder):
    return {item: folder / f"{item.name}.csv" for item in INPUTS}


def names(items):
    return [item.name for item in items]


def test_each_file_is_done_by_one(tmp_path):
    paths = outputs(tmp_path)
    paths[INPUTS[0]].write_text("done before")
    with claims.Claims(tmp_path) as one, claims.Claims(tmp_path) as other:
        mine, theirs = (claims.unclaimed(INPUTS, paths, c) for c in (one, other))
        taken = [next(mine), next(theirs), next(mine), next(theirs)]
        assert names(taken) == ["1.wav", "2.wav", "3.wav", "4.wav"]
        for item in taken:
            paths[item].write_text("done")
        assert names(mine) == ["5.wav"]
        assert names(theirs) == []  # it is claimed, if not done
    assert not (tmp_path / claims.FOLDER).exists()


def test_a_file_that_cannot_be_tagged_is_let_go(tmp_path):
    paths = outputs(tmp_path)
    with claims.Claims(tmp_path) as one, claims.Claims(tmp_path) as other:
        item = next(claims.unclaimed(INPUTS, paths, one))
        assert not other.take(paths[item])
        one.release(paths[item])
        assert other.take(paths[item])


CLAIMER = """
import pathlib, sys, time
from psl_jax.tagging import claims
held = claims.Claims(sys.argv[1])
for name in sys.argv[2:]:
    assert held.take(pathlib.Path(sys.argv[1]) / name)
print("claimed", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("while_the_other_works", [False, True])
def test_a_killed_process_loses_its_claims(tmp_path, while_the_other_works):
    paths = outputs(tmp_path)
    command = [sys.executable, "-c", CLAIMER, str(tmp_path), "0.wav.csv", "1.wav.csv"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "claimed\n"
        with claims.Claims(tmp_path) as held:
            work, done = claims.unclaimed(INPUTS, paths, held), []
            if while_the_other_works:
                done += [next(work) for _ in range(3)]
                assert names(done) == ["2.wav", "3.wav", "4.wav"]
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            done += list(work)
            assert sorted(names(done)) == names(INPUTS)
    assert not (tmp_path / claims.FOLDER).exists()


def test_where_nothing_can_be_locked(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(claims.fcntl, "flock", refuse)
    with pytest.raises(claims.UserError, match=r"No locks available.*another file system"):
        claims.Claims(pathlib.Path(tmp_path))
