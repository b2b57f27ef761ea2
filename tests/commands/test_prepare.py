"""psl-jax prepare as a person gives it: status, faults, Beam, and use of what it made."""

import os
import pathlib
import shutil
import subprocess

import audio_files
import forked_python
import places
import pytest
import tensorflow_datasets as tfds
from audioset_tables import segment, write_csv
from prepared_data import record_hashes, small_folder

from psl_jax.commands import prepare
from psl_jax.corpora import audio_folders, audioset
from psl_jax.data import split_index_files
from psl_jax.runtime.errors import UserError

IDS = [f"{letter * 10}{number}" for letter in "ab-_Y" for number in range(3)]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> pathlib.Path:
    """Tables of 15 balanced and 15 eval clips, and the audio of all but one of each."""
    folder = tmp_path_factory.mktemp("audioset") / "source"
    for name, prefix in ((audioset.BALANCED, ""), (audioset.EVAL, "e")):
        clips = [f"{prefix}{clip[len(prefix) :]}" for clip in IDS]
        write_csv(folder / name, [segment(clip, 0.0, 2.5) for clip in clips])
        names = [f"audio/{clip}.wav" for clip in clips[1:]]
        audio_files.write_tones(folder, *names, seconds=2.5)
    return folder


def arguments(source, data_dir, *more, corpus="audioset") -> list[str]:
    return [f"--corpus={corpus}", f"--source_dir={source}", f"--data_dir={data_dir}", *more]


def run(*command) -> int:
    """The command in this process; returns its exit status."""
    return prepare.main(prepare.parse(["prepare", *map(str, command)]))


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("prepared")
    assert run(*arguments(source, root)) == 0
    return root


def test_status_says_whether_too_much_is_missing(source, tmp_path, capsys):
    assert run(*arguments(source, tmp_path, "--max_missing=0.07")) == 0
    assert run(*arguments(source, tmp_path, "--max_missing=0.06")) == 1
    output = capsys.readouterr().out
    assert "balanced: 14 of 15 clips" in output and f"{IDS[0]}: no audio by this id" in output
    assert "than --max_missing=0.06 allows: balanced (6.67 %), eval (6.67 %)" in output
    assert "used again" in output and "delete" in output


def test_a_second_run_reads_no_audio(source, prepared, monkeypatch):
    monkeypatch.setattr(audioset, "Scan", None)
    assert run(*arguments(source, prepared)) == 0


def test_what_is_required_is_told(capsys):
    with pytest.raises(SystemExit):
        run("--corpus=audioset")
    assert "required: --source_dir, --data_dir" in capsys.readouterr().err


def test_values_that_cannot_be_are_named(tmp_path):
    for option, told in (
        ("--max_missing=nan", "--max_missing is nan, expected a number at least 0 and at most 1"),
        ("--num_workers=-1", "--num_workers is -1, expected a number at least 1"),
        ("--clip_seconds=nan", "--clip_seconds is nan, expected a number above 0"),
    ):
        with pytest.raises(UserError, match=told):
            run(*arguments(tmp_path, tmp_path, option, corpus="own_data"))


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    folder = small_folder(tmp_path / "source", "dog;cat")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"Not a directory\. Choose another data_dir"):
        run(*arguments(folder, tmp_path / "file", corpus="own_data"))


def test_a_folder_that_cannot_be_read_is_named(monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match="cannot read some/folder: Permission denied"):
        list(audio_folders.walk_files("some/folder"))
    assert list(audio_folders.walk_files("disk/lost+found")) == []


def test_a_pipe_among_the_recordings_is_not_waited_for(tmp_path, capsys):
    folder = small_folder(tmp_path / "source", "dog;cat")
    (recording, *_) = sorted(folder.rglob("*.wav"))
    recording.unlink()
    os.mkfifo(recording)
    run(*arguments(folder, tmp_path / "data", "--max_missing=1", corpus="own_data"))
    assert "unreadable" in capsys.readouterr().out


def test_own_data(tmp_path):
    folder = small_folder(tmp_path / "source", "dog|cat")
    options = arguments(folder, tmp_path / "data", "--label_separator=|", corpus="own_data")
    assert run(*options) == 0
    data_dir = split_index_files.find_data_dir(tmp_path / "data")
    assert split_index_files.class_names(data_dir) == ("cat", "dog")
    names = pathlib.Path(data_dir) / "labels.labels.txt"
    for damaged in ("cat\ndoh\n", "cat\n", ""):
        names.write_text(damaged)
        with pytest.raises(UserError, match=r"labels\.labels\.txt should name the same classes"):
            split_index_files.class_names(data_dir)
    (pathlib.Path(data_dir) / "dataset_info.json").unlink()
    with pytest.raises(
        UserError,
        match=f"{data_dir} is not a prepared data set, such as the folder `data` of a run",
    ):
        split_index_files.class_names(data_dir)


def test_tfds_reads_it(prepared):
    config = pathlib.Path(split_index_files.find_data_dir(prepared)).parent.name
    loaded = tfds.load(f"audioset/{config}", data_dir=prepared, split="eval")
    assert {r["id"].decode() for r in tfds.as_numpy(loaded)} == {f"e{c[1:]}" for c in IDS[1:]}


def test_the_only_data_set_below_a_folder_is_found(prepared, tmp_path):
    data_dir = split_index_files.find_data_dir(prepared)
    assert split_index_files.find_data_dir(data_dir) == data_dir
    assert split_index_files.find_data_dir(pathlib.Path(data_dir).parent) == data_dir
    shutil.copytree(data_dir, tmp_path / "audioset/one/1.0.0")
    shutil.copytree(data_dir, tmp_path / "audioset/two/incomplete.x_1.0.0")
    assert split_index_files.find_data_dir(tmp_path) == str(tmp_path / "audioset/one/1.0.0")
    shutil.copytree(data_dir, tmp_path / "audioset/two/1.0.0")
    with pytest.raises(UserError, match="holds several prepared data sets"):
        split_index_files.find_data_dir(tmp_path)


def test_beam_writes_the_same_files(source, prepared, tmp_path):
    pytest.importorskip("apache_beam", reason="needs Apache Beam")
    beam = "--beam_options=--runner=DirectRunner"
    done = subprocess.run(
        [forked_python.path(), "-m", "psl_jax", "prepare", *arguments(source, tmp_path, beam)],
        cwd=places.ROOT,
        env=os.environ | {"PYTHONPATH": str(places.ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    data_dir, ours = (
        pathlib.Path(split_index_files.find_data_dir(root)) for root in (tmp_path, prepared)
    )
    assert record_hashes(data_dir) == record_hashes(ours)
    assert {path.name for path in data_dir.iterdir()} == {path.name for path in ours.iterdir()}
    assert f"{IDS[0]}: no audio by this id" in (data_dir / "report.txt").read_text()


def test_wrong_beam_options(source, tmp_path):
    pytest.importorskip("apache_beam", reason="needs Apache Beam")
    with pytest.raises(UserError, match="--beam_options: 'DirectRunner' is no option"):
        run(*arguments(source, tmp_path, "--beam_options=DirectRunner"))
    assert not list(tmp_path.rglob("dataset_info.json"))
