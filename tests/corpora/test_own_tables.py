"""Folders of one's own as people have them: tables, labels and file names in many spellings."""

import re

import audio_files
import pytest
from prepared_data import config, problems_of, read_split

from psl_jax.corpora.annotations.table_events import Hints
from psl_jax.corpora.own_folder import read_own_folder
from psl_jax.data import split_index_files
from psl_jax.preparing.prepare_corpus import prepare
from psl_jax.runtime.errors import UserError


def prepared(root, tables, **settings):
    """Writes the tables (name: text) in root/source, prepares; returns the data directory."""
    for name, text in tables.items():
        (root / "source" / name).write_text(text, encoding="utf-8")
    return prepare(config(source_dir=str(root / "source"), **settings), root)


def test_a_table_without_rows_is_found_before_others_are_written(tmp_path, monkeypatch):
    audio_files.write_tones(tmp_path / "source", "a.wav")
    tables = {"full.csv": "filename,labels\na.wav,dog\n", "test.csv": "filename,labels\n"}
    monkeypatch.setattr("psl_jax.preparing.split_writer.write_shard", None)  # nothing is written
    with pytest.raises(UserError, match="no clip of split 'test' is usable"):
        prepared(tmp_path, tables)


def read_tables(folder, **tables):
    """The folder with these tables: labels by file, and kinds of problems with their details."""
    for name, text in tables.items():
        (folder / f"{name}.csv").write_text(text, encoding="utf-8")
    if not any(path.suffix != ".csv" for path in folder.rglob("*")):
        for name in re.findall(r"\w+\.wav", tables["full"]):
            (folder / name).touch()
    found = read_own_folder(folder, Hints())
    rows = {name: recording.row for name, recording in found.splits["full"].items()}
    labels = {name: {found.classes[k] for k in row.labels} for name, row in rows.items()}
    return labels, {problem.kind: problem.detail for _, problem in found.problems}, rows


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ({"train.tsv": "a.wav,Tür", "Test.csv": "b.wav,cat"}, {"train": "a.wav", "Test": "b.wav"}),
        ({"nord.csv": "a.wav,Tür", "sued.csv": "b.wav,cat"}, {"nord": "a.wav", "sued": "b.wav"}),
        ({"full.csv": "a.wav,Tür", "full_events.tsv": "a.wav,0,1,Tür"}, {"full": "a.wav"}),
    ],
)
def test_splits_by_hand_in_tables_of_any_form(tmp_path, tables, expected):
    """With tabs, in Windows' letters, in capitals: they are never put together and split anew."""
    audio_files.write_tones(tmp_path, "a.wav", "b.wav")
    for name, row in tables.items():
        header = "filename,onset,offset,label" if "_events" in name else "filename,labels"
        (tmp_path / name).write_bytes(f"{header}\n{row}\n".replace(",", "\t").encode("latin-1"))
    found = read_own_folder(tmp_path, Hints()).splits
    assert {split: " ".join(recordings) for split, recordings in found.items()} == expected


def test_ids_are_not_shared(tmp_path):
    names = ["a.wav", "x/a.flac", "a.wav.flac", "b.wav", "c.flac"]
    audio_files.write_tones(tmp_path, *names)
    table = "filename,labels\n" + "".join(f"{name},dog\n" for name in names)
    _, _, rows = read_tables(tmp_path, full=table)
    assert {row.id for row in rows.values()} == {"a.wav", "x/a.flac", "a.wav.flac", "b", "c"}


@pytest.mark.parametrize(
    ("cells", "expected", "kind"),
    [
        (['"dog, rain"', "dog", "rain"], ["dog rain", "dog", "rain"], "several labels"),
        (
            ['"dog, rain"', '"rain, cat"', '"cat, owl"', "dog", "rain"],
            ["dog rain", "rain cat", "cat owl", "dog", "rain"],
            "several labels",
        ),
        (['"dog,rain,cat"', "dog"], ["dog,rain,cat", "dog"], "one label or several?"),
        (["dog|rain", "dog;rain"], ["dog rain", "dog rain"], "several labels"),
        (["\"['dog', 'rain']\"", "\"['dog' 'rain']\""], ["dog rain"] * 2, "Python list"),
        (["[dog]", '"[""r\\u00e4in""]"'], ["dog", "räin"], "Python list"),
        (["Dog ", " dog", "DOG", "dog"], ["dog"] * 4, "other spelling"),
        (['"dog, loud"', "dog"], ["dog,_loud", "dog"], "one label or several?"),
        (['"Vehicle horn, car horn"', "dog"], ["Vehicle_horn,_car_horn", "dog"], None),
        (["dog/rain", "dog", "rain"], ["dog rain", "dog", "rain"], "several labels"),
        (["dog rain", "dog", "rain"], ["dog_rain", "dog", "rain"], "one label or several?"),
        (["'dog;rain'", ' "dog;rain"', "dog\u200b"], ["dog rain", "dog rain", "dog"], None),
        (["car-horn", "Carhorn"], ["car-horn", "Carhorn"], "one class or several?"),
        (["nan", "dog"], ["nan", "dog"], "no label?"),
        (["dog\train", "dog\tcat"], ["dog rain", "dog cat"], "several labels"),
        (['"dog\nrain"', "dog"], ["dog rain", "dog"], "several labels"),
        (["#N/A", "dog"], ["#N/A", "dog"], "no label?"),
        (["caf\u00e9", "cafe\u0301"], ["caf\u00e9", "caf\u00e9"], None),
        (["2026-03-01 00:00:00", "dog"], ["2026-03-01_00:00:00", "dog"], "date or truth value?"),
        (["WAHR", "dog"], ["WAHR", "dog"], "date or truth value?"),
    ],
)
def test_labels_as_people_write_them(tmp_path, cells, expected, kind):
    rows = "".join(f"{number}.wav,{cell}\n" for number, cell in enumerate(cells))
    labels, told, _ = read_tables(tmp_path, full=f"filename,labels\n{rows}")
    for number, names in enumerate(expected):
        assert labels[f"{number}.wav"] == {name.replace("_", " ") for name in names.split()}
    assert list(told) == ([kind] if kind else [])


@pytest.mark.parametrize(
    ("columns", "values", "place"),
    [("labels", "", "3.wav"), ("onset,offset,label", "0,1,", "row 2 of 3.csv")],
)
def test_another_spelling_is_told_with_its_place(tmp_path, columns, values, place):
    for number in range(5):
        (tmp_path / f"{number}.wav").touch()
        row = f"{number}.wav,{values}{'Siren ' if number == 3 else 'siren'}"
        (tmp_path / f"{number}.csv").write_text(f"filename,{columns}\n{row}\n")
    ((_, problem),) = read_own_folder(tmp_path, Hints()).problems
    assert problem.detail == "1 class is spelt in several ways: Siren is read as siren"
    assert problem.file == place


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_tables_of_spreadsheets(tmp_path, separator):
    """Other separators, decimal commas, empty columns, another case of the header."""
    label_rows = ["Filename,Labels,,", 'a.wav,"dog;rain",,', "b.wav,dog,,"]
    event_rows = ["filename,onset,offset,label", "a.wav,0;25,1;5,Dog"]
    full, full_events = (
        "\n".join(rows).replace(",", separator).replace("0;25", "0,25").replace("1;5", "1,5")
        for rows in (label_rows, event_rows)
    )
    labels, told, rows = read_tables(tmp_path, full=full, full_events=full_events)
    assert labels == {"a.wav": {"dog", "rain"}, "b.wav": {"dog"}}
    assert "other separator" in told and "other spelling" in told
    assert rows["a.wav"].events == ((0.25, 1.5, 0),)


def test_files_that_are_called_a_little_otherwise(tmp_path):
    # A separator of Windows, and an umlaut of two characters as on a Mac, are no other name.
    names = ["sub/One.WAV", "two.flac", "Drei ä.wav", "same.flac", "sub/u\u0308.wav"]
    audio_files.write_tones(tmp_path, *names, "same.wav")
    for name in ("._full.csv", "sub/._One.WAV"):  # macOS leaves these on foreign disks
        (tmp_path / name).write_bytes(b"\0\x05\x16\x07")
    written = ["sub\\one.wav", "two", "drei a\u0308.WAV", "same.flac", "sub\\\u00fc.wav"]
    rows = "".join(f"{name},dog\n" for name in written)
    labels, told, _ = read_tables(tmp_path, full=f"filename,labels\n{rows}")
    assert set(labels) == set(names)
    assert told["other file name"].startswith("3 files are called otherwise")
    with pytest.raises(UserError, match=r"'same' may be same.flac or same.wav"):
        read_tables(tmp_path, full=f"filename,labels\n{rows}same,dog\n")


def test_a_class_of_events_alone_is_told(tmp_path):
    tables = {"full": "filename,labels\na.wav,dog\n"}
    tables["full_events"] = "filename,onset,offset,label\na.wav,0,1,dgo;dog\na.wav,0,1,DOG\n"
    _, told, rows = read_tables(tmp_path, **tables)
    assert "'dgo'" in told["class of events alone"]
    assert rows["a.wav"].events == ((0.0, 1.0, 0), (0.0, 1.0, 1))


def test_labels_of_long_recordings_belong_to_clips_as_their_events_say(tmp_path):
    """Clips of 4 s; nothing is known of `bird`, which has no event and so sounds in all."""
    audio_files.write_tones(tmp_path / "source", "a.wav", "b.wav", seconds=6.0)
    tables = {
        "full.csv": "filename,labels\na.wav,dog;cat;bird\nb.wav,cat\n",
        "full_events.csv": "filename,onset,offset,label\na.wav,1,2,dog\na.wav,5,6,dog\n"
        "a.wav,4.5,5,cat\nb.wav,4.5,5,cat\n",
    }
    data_dir = prepared(tmp_path, tables, clip_seconds=4.0)
    names = split_index_files.class_names(data_dir)
    records = read_split(data_dir, "full")
    labels = {clip: [names[k] for k in record["labels"]] for clip, record in records.items()}
    assert labels == {"a@0": ["bird", "dog"], "a@4": ["bird", "cat", "dog"], "b@4": ["cat"]}
    assert dict(problems_of(data_dir, "b.wav"))["not annotated"].startswith("1 of 2 clips")
