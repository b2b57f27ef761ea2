"""Thresholds from a file and back to none, and what the command tells of them."""

import csv
import errno
import os
import tempfile

import audio_files
import pytest
import tagging

from psl_jax.commands import tag, thresholds
from psl_jax.networks.trained_model import Thresholds
from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError
from psl_jax.weights import orbax_folder
from psl_jax.weights.load_model import load_model

FIRST, SECOND = tagging.LABELS[0], tagging.LABELS[2]  # one with commas


@pytest.fixture
def sound(tmp_path):
    return str(audio_files.write(tmp_path / "sounds" / "a.wav", tagging.recording(4.0)))


@pytest.fixture
def run(tmp_path, capsys):
    model = tagging.save(tmp_path / "run")

    def call(*arguments):
        status = tag.main(tag.parse(["tag", model, *map(str, arguments)]))
        return status, *capsys.readouterr()

    call.model = model
    return call


def write(path, rows, header=("class", "threshold", "F1")):
    files.write_csv(path, header, rows)
    return path


def test_events_are_those_of_the_thresholds_in_a_file(run, sound, tmp_path):
    table = write(
        tmp_path / "t.csv", [(f" {FIRST.upper()} ", "0,9", "1"), (SECOND, "0.05", ""), ("", "", "")]
    )
    _, out, _ = run(sound, "--format=csv", f"--thresholds={table}", "--threshold=0.6")
    own = dict.fromkeys(tagging.LABELS, 0.6) | {FIRST: 0.9, SECOND: 0.05}
    expected = tagging.tagger().tag(sound).events(own)
    rows = list(csv.DictReader(out.splitlines()))
    found = [(row["label"], float(row["onset"]), float(row["offset"])) for row in rows]
    assert found == [(e.label, round(e.onset, 2), round(e.offset, 2)) for e in expected]
    assert SECOND in {row["label"] for row in rows}
    run(sound, f"--thresholds={table}", f"--labels={FIRST};{SECOND}")  # fewer classes


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(FIRST, "1.5")], r"t.csv, line 2: the threshold of 'dog' is"),
        ([(FIRST, "")], "line 2: the threshold of 'dog' is ''"),
        ([(FIRST, "0.5"), (f"{SECOND}x", "0.5")], rf"line 3: .*'{SECOND}x' \(near: {SECOND}"),
        ([(FIRST, "0.5"), (f"{FIRST} ", "0.7")], "line 3: .* second time"),
    ],
)
def test_files_that_are_none(run, sound, tmp_path, rows, message):
    table = tmp_path / "t.csv"
    messages = {("class", "threshold"): message, ("name", "value"): "no column class, threshold"}
    for header, told in messages.items():
        with pytest.raises(UserError, match=told):
            run(sound, f"--thresholds={write(table, rows, header)}")


def test_thresholds_can_be_forgotten(tmp_path, capsys):
    model = tagging.save(tmp_path / "run")
    digest = load_model(model).digest
    orbax_folder.store_thresholds(model, Thresholds((0.9,) * 6, {"split": "x"}))
    for option in ("--dry_run", "--csv=t.csv"):
        with pytest.raises(SystemExit):
            thresholds.parse(["thresholds", model, "--reset", option])
    thresholds.main(thresholds.parse(["thresholds", model, "--reset"]))
    assert "forgotten" in capsys.readouterr().out
    again = load_model(model)
    assert again.info.thresholds is None and again.digest == digest


def test_a_place_that_cannot_be_written_is_told_before_anything_is_computed(tmp_path, monkeypatch):
    model = tagging.save(tmp_path / "run")

    def refuse(**_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(UserError, match=r"cannot write into .*averaged: Permission denied.*--csv"):
        thresholds.main(thresholds.parse(["thresholds", model, str(tmp_path / "nowhere")]))


def test_a_model_without_a_folder_has_its_thresholds_in_a_table(tmp_path):
    (tmp_path / "a.safetensors").touch()
    with pytest.raises(UserError, match="is none: give --dry_run and --csv=FILE"):
        orbax_folder.check_thresholds_writable(tmp_path / "a.safetensors")


def test_a_line_for_each_file(run, sound, tmp_path):
    status, out, _ = run(os.path.dirname(sound), "--format=summary", "--top_k=2")
    tags = tagging.tagger().tag(sound)
    (first, score), (second, _) = tags.top(2)
    (line,) = out.splitlines()
    assert status == 0 and line.split()[:3] == ["0:04.0", str(len(tags.events())), "events"]
    assert f"  {first} {score:.2f}, {second} " in line and line.endswith(f"({sound})")


def test_where_there_is_no_audio_nothing_is_made(run, tmp_path):
    (tmp_path / "empty").mkdir()
    status, out, err = run(tmp_path / "empty", f"--out={tmp_path / 'tags'}")
    assert (status, out) == (1, "") and "a folder without audio files" in err
    assert not (tmp_path / "tags").exists()
