"""Tables of annotation tools: what a careful human reads, or an error that names the reason."""

import datetime
import json
import os
import pathlib
import shutil
from typing import Any

import places
import pytest

from psl_jax.corpora.annotations.read_annotations import Annotations, read_annotations
from psl_jax.corpora.annotations.table_events import Hints
from psl_jax.runtime.errors import UserError

TABLES = pathlib.Path(os.environ.get("PSL_JAX_SHARED", places.SHARED)) / "tables"
FOLDERS = sorted(path.parent.name for path in TABLES.glob("*/right.json"))


def touch(root: pathlib.Path, *recordings: str) -> None:
    for name in recordings:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def events_of(annotations: Annotations) -> list[tuple[str, Any, Any, str]]:
    """Sorted, and equal to events that are told to 2 ms."""
    rows = sorted(
        (recording, event.onset, event.offset, event.label)
        for recording, said in annotations.rows.items()
        for event in said.events
    )
    return [
        (name, pytest.approx(onset, abs=2e-3), pytest.approx(offset, abs=2e-3), label)
        for name, onset, offset, label in rows
    ]


def empty_of(annotations: Annotations) -> list[str]:
    """Recordings that hold nothing."""
    rows = annotations.rows.items()
    return sorted(name for name, said in rows if not (said.events or said.labels or said.unsure))


@pytest.mark.skipif(not FOLDERS, reason="no tables in PSL_JAX_SHARED: needs tables of other tools")
@pytest.mark.parametrize("name", FOLDERS)
def test_tables_of_other_tools(tmp_path, name):
    right = json.loads((TABLES / name / "right.json").read_text())
    shutil.copytree(TABLES / name, tmp_path, dirs_exist_ok=True)
    (tmp_path / "right.json").unlink()
    touch(tmp_path, *right["recordings"])
    told = right.get("told", {})
    hints = Hints(told.get("columns", {}), told.get("label", ""))
    if tool := {"ka": "Kaleidoscope", "la": "Label Studio", "pr": "Praat"}.get(name[:2]):
        with pytest.raises(UserError, match=f"{tool}.* not read"):
            read_annotations(tmp_path, hints)
        return
    if "refuse" in right:
        with pytest.raises(UserError, match="row 1: no column holds labels"):
            read_annotations(tmp_path, Hints())
    for hint in [hints] if "refuse" in right else [hints, Hints()]:
        found = read_annotations(tmp_path, hint)
        keys = ("file", "onset", "offset", "label")
        assert events_of(found) == sorted(tuple(e[k] for k in keys) for e in right["events"])
        assert empty_of(found) == right.get("nothing_in", [])
        of_rows = [p for p in found.problems if p.kind in ("left out", "nothing in it")]
        rows = {problem.detail.split(":")[0] for problem in of_rows}
        assert rows == {f"row {row['row']}" for row in right.get("left_out", [])}
        unknown = right["recordings"].keys() - {e["file"] for e in right["events"]}
        assert set(found.unnamed) == unknown - set(empty_of(found))


HEAD = "filename,onset,offset,label\n"
RAVEN = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)"

# A table's name, by default e.csv, what it holds, and its events.
READ = {
    "Excel's line that names the separator": (
        "sep=;\r\nfilename;onset;offset;label\r\na.wav;1,5;2;dog\r\n",
        [("a.wav", 1.5, 2, "dog")],
    ),
    "raven: the label stands in one view only, and a remark is none": (
        "a.Table.2.selections.txt",
        f"{RAVEN}\tCall\tNotes\n1\tWaveform 1\t1\t1\t2\t0\t9\t\tloud\n"
        "1\tSpectrogram 1\t1\t1\t2\t0\t9\tdog\t",
        [("a.wav", 1, 2, "dog")],
    ),
    "raven: times of a table with one file": (
        "all.txt",
        f"{RAVEN}\tBegin File\tSpecies\n1\tS 1\t1\t1,5\t2,25\t0\t9\tA.WAV\tdog",
        [("a.wav", 1.5, 2.25, "dog")],
    ),
    "audacity: lines without an end": (
        "a.txt",
        "1.500000\tdog\n2.000000\t\tcat\n3.0\t3.5\t7\n",
        [("a.wav", 1.5, 1.5, "dog"), ("a.wav", 2, 2, "cat"), ("a.wav", 3, 3.5, "7")],
    ),
    "audacity: BirdNET's, with two names and a confidence": (
        "a.BirdNET.results.txt",
        "0.0\t3.0\tAvis ficta, Nobody's Rail\t0.8123\n3.0\t6.0\tDog_Dog\t0.5\n",
        [("a.wav", 0, 3, "Nobody's Rail"), ("a.wav", 3, 6, "Dog")],
    ),
    "audacity: soft labels of MAESTRO, which look like BirdNET's": (
        "a.txt",
        "0.0\t1.0\tbirds_singing\t0.85\n1.0\t2.0\tcar\t0.25\n2.0\t3.0\tDog_Hund\t0.5\n",
        [("a.wav", 0, 1, "birds_singing"), ("a.wav", 1, 2, "car"), ("a.wav", 2, 3, "Hund")],
    ),
    "audacity: what psl-jax tag wrote, and a label of a person": (
        "a.txt",
        "0.000000\t1.000000\tdog 0.85\n2.0\t3.0\tcar horn 1.00\n4.0\t5.0\tcat\n",
        [("a.wav", 0, 1, "dog"), ("a.wav", 2, 3, "car horn"), ("a.wav", 4, 5, "cat")],
    ),
    "birdnet lite: semicolons and no file column": (
        "a.csv",
        "Start (s);End (s);Scientific name;Common name;Confidence\n0.0;3.0;Canis;Dog;0.5\n",
        [("a.wav", 0, 3, "Dog")],
    ),
    "elan: milliseconds alone, no media line": (
        "a.txt",
        "t\t\t0:00:01.250\t0:00:02.000\tdog\nt\t\t0:00:02.000\t0:00:03.500\tcat\n",
        [("a.wav", 1.25, 2, "dog"), ("a.wav", 2, 3.5, "cat")],
    ),
    "elan: a media file with a space, and one that is not there": (
        "t.txt",
        '"#file:///D:/an%20a.wav -- offset: 0, duration: 9"\n"#file:///b.mp4 -- offset: 0, d"\n'
        "t\t\t1.250\t2.000\t0.750\tdog\n",
        [("an a.wav", 1.25, 2, "dog")],
    ),
    "elan: a column a tier, in German": (
        "a.txt",
        "Anfangszeit - msec\tEndzeit - msec\tDauer - msec\tTiere\tMaschinen\n"
        "1250\t2000\t750\tHund\t\n2500\t4000\t1500\tHund\tSirene\n",
        [("a.wav", 1.25, 2, "Hund"), ("a.wav", 2.5, 4, "Hund"), ("a.wav", 2.5, 4, "Sirene")],
    ),
    "elan: several files in a table": (
        "all.txt",
        "Begin Time - ss.msec\tEnd Time - ss.msec\tDuration - ss.msec\tbirds\tPath\tName\n"
        "1.250\t2.000\t0.750\twren\t/x/a.eaf\ta.eaf\n"
        "1.000\t2.000\t1.000\tcrow\t/x/an a.eaf\tan a.eaf\n",
        [("a.wav", 1.25, 2, "wren"), ("an a.wav", 1, 2, "crow")],
    ),
    "plain: clock times and a duration": (
        "file,start,duration (s),class\na,1:02.5,2,dog\nA.wav,0:01:10,1,cat\n",
        [("a.wav", 62.5, 64.5, "dog"), ("a.wav", 70, 71, "cat")],
    ),
    "plain: milliseconds, in Windows' letters": (
        "filename;onset_ms;offset_ms;label\na;500;1500;Tür\n".encode("latin-1"),
        [("a.wav", 0.5, 1.5, "Tür")],
    ),
    "raven: quoted, as R writes it": (
        "a.Table.1.selections.txt",
        '"Selection"\t"View"\t"Begin Time (s)"\t"End Time (s)"\t"Call"\n1\t"S 1"\t0.5\t1\t"dog"\n',
        [("a.wav", 0.5, 1, "dog")],
    ),
    "raven: a path column that is empty": (
        "all.txt",
        f"{RAVEN}\tBegin Path\tBegin File\tFile Offset (s)\tCall\n"
        "1\tS 1\t1\t61\t62\t0\t9\t\ta.wav\t3\tdog",
        [("a.wav", 3, 4, "dog")],
    ),
    "raven: with commas": (
        "a.csv",
        "Selection,View,Begin Time (s),End Time (s),Call\n1,S 1,0.5,1,dog\n",
        [("a.wav", 0.5, 1, "dog")],
    ),
    "plain: an index without a name, and small times": (
        ",filename,onset,offset,label\n0,a.wav,1e-05,1e1,dog\n1,a.wav,2,3,cat\n",
        [("a.wav", 1e-05, 10, "dog"), ("a.wav", 2, 3, "cat")],
    ),
    "plain: two tables, one behind the other": (
        f"{HEAD}a,0,1,dog\n{HEAD}a,1:02,62.5,cat\n",
        [("a.wav", 0, 1, "dog"), ("a.wav", 62, 62.5, "cat")],
    ),
    "plain: empty rows before the header": (
        "\r\n;;;\r\nfilename;onset;offset;label\r\na;0,5;1;dog\r\n",
        [("a.wav", 0.5, 1, "dog")],
    ),
    "plain: lines end as on old Macs": (
        'filename;onset;offset;label;note\ra;0;1;dog;"a, b, c, d, e, f, g, h, i, j"\r',
        [("a.wav", 0, 1, "dog")],
    ),
    "plain: a remark of two lines": (
        'filename,onset,offset,label,remark\na,0,1,dog,"windy\nday"\na,2,3,cat,\n',
        [("a.wav", 0, 1, "dog"), ("a.wav", 2, 3, "cat")],
    ),
    "plain: names and a unit without spaces": (
        "FileName,StartTimeMs,EndTimeMs,Label\na,500,1500,dog\n",
        [("a.wav", 0.5, 1.5, "dog")],
    ),
    "plain: UTF-16 of a spreadsheet": (
        "events.txt",
        "filename\tonset\toffset\tlabel\na\t0,5\t1\tTür\n".encode("utf-16"),
        [("a.wav", 0.5, 1, "Tür")],
    ),
}


@pytest.mark.parametrize("case", READ)
def test_tables_that_can_be_read_in_one_way(tmp_path, case):
    *name, content, expected = READ[case]
    table = tmp_path / (name[0] if name else "e.csv")
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    touch(tmp_path, "a.wav", "an a.wav")
    assert events_of(read_annotations(tmp_path, Hints())) == expected


def write_parquet(folder, columns):
    table = pytest.importorskip("pyarrow").table(columns)
    pytest.importorskip("pyarrow.parquet").write_table(table, folder / "e.parquet")


@pytest.mark.parametrize("suffix", [".xlsx", ".parquet"])
def test_spreadsheets_and_parquet(tmp_path, suffix):
    rows = {"Datei": ["a.wav", "b.wav"], "Beginn": [0.5, None], "Ende": [2, None]}
    rows["Klasse"] = ["Tür", None]
    if suffix == ".xlsx":
        book = pytest.importorskip("openpyxl").Workbook()
        for row in [list(rows), *zip(*rows.values(), strict=True)]:
            book.active.append(row)
        book.save(tmp_path / "e.xlsx")
    else:
        write_parquet(tmp_path, rows)
    touch(tmp_path, "a.wav", "b.wav")
    found = read_annotations(tmp_path, Hints())
    assert events_of(found) == [("a.wav", 0.5, 2, "Tür")] and empty_of(found) == ["b.wav"]


def test_columns_that_the_user_names_keep_their_unit(tmp_path):
    (tmp_path / "e.csv").write_text("Datei;von (ms);bis (ms);Art\na.wav;500;1500;dog\n")
    touch(tmp_path, "a.wav")
    columns = {"onset": "von (ms)", "offset": "bis (ms)", "label": "Art"}
    assert events_of(read_annotations(tmp_path, Hints(columns))) == [("a.wav", 0.5, 1.5, "dog")]


@pytest.mark.parametrize("is_array", [False, True])
def test_formulas_and_whole_numbers(tmp_path, is_array):
    """What no spreadsheet program has computed is nothing yet; pandas writes 7 as 7.0."""
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    formula = openpyxl.worksheet.formula.ArrayFormula("B2", '="dog"') if is_array else '="dog"'
    for row in (["filename", "label"], ["a.wav", formula], ["b.wav", "cat"]):
        book.active.append(row)
    book.save(tmp_path / "e.xlsx")
    touch(tmp_path, "a.wav", "b.wav")
    with pytest.raises(UserError, match=r"row 2: the formula .* has no value"):
        read_annotations(tmp_path, Hints())
    (tmp_path / "e.xlsx").unlink()
    # Spark writes texts as bytes.
    write_parquet(tmp_path, {"filename": [b"a.wav", b"b.wav"], "label": [7.0, None]})
    assert read_annotations(tmp_path, Hints()).rows["a.wav"].labels == ["7"]


@pytest.mark.parametrize(
    ("time", "merged", "message"),
    [
        (datetime.time(1, 30), None, r"row 2: '01:30 \(hours and minutes\)' is no time"),
        (1.5, "D2:D3", "the cells D2:D3 are merged"),
        (1.5, None, None),  # the clock's time in another column is no matter
    ],
)
def test_what_a_spreadsheet_only_shows(tmp_path, time, merged, message):
    """Who types 1:30 means minutes and seconds; a merged cell shows its value in several rows."""
    book = pytest.importorskip("openpyxl").Workbook()
    header = ["filename", "onset", "offset", "label", "recorded at"]
    for row in (header, ["a.wav", time, time, "dog", datetime.time(1, 30)], ["a.wav"]):
        book.active.append(row)
    book.active["E2"].number_format = "h:mm"
    if isinstance(time, datetime.time):
        book.active["B2"].number_format = book.active["C2"].number_format = "h:mm"
    if merged:
        book.active.merge_cells(merged)
    book.save(tmp_path / "e.xlsx")
    touch(tmp_path, "a.wav")
    if not message:
        assert events_of(read_annotations(tmp_path, Hints())) == [("a.wav", 1.5, 1.5, "dog")]
        return
    with pytest.raises(UserError, match=message):
        read_annotations(tmp_path, Hints())


def test_what_is_hidden_says_nothing_and_other_files_are_told(tmp_path):
    hidden = (".Trash/b.wav", ".ipynb_checkpoints/e.csv", "~$e.xlsx")
    touch(tmp_path, "a.wav", *hidden, "1.png", "2.png")
    (tmp_path / ".ipynb_checkpoints/e.csv").write_text(HEAD + "a,2,3,cat\n")
    (tmp_path / "e.csv").write_text(HEAD + "a.wav,0,1,dog\n")
    found = read_annotations(tmp_path, Hints())
    assert found.recordings == ["a.wav"] and events_of(found) == [("a.wav", 0, 1, "dog")]
    ((file, detail),) = [(p.file, p.detail) for p in found.problems]
    assert file == "1.png" and detail.endswith("as 1 more files *.png")


def test_names_of_recordings(tmp_path):
    """By folder where need be; two paths of elsewhere are no recording here; tools must agree."""

    def read(rows):
        (tmp_path / "e.csv").write_text(HEAD + rows)
        return read_annotations(tmp_path, Hints())

    touch(tmp_path, "north/x.wav", "south/x.wav", "y.wav")
    found = read("D:\\s\\South\\X.wav,0,1,dog\nsub/y.wav,0,1,dog\n")
    assert sorted(found.rows) == ["south/x.wav", "y.wav"]
    with pytest.raises(UserError, match=r"row 2: 'x.wav' may be north/x.wav or south/x.wav"):
        read("x.wav,0,1,dog\n")
    (tmp_path / "e.csv").rename(tmp_path / "south/e.csv")  # a table of its folder
    assert list(read_annotations(tmp_path, Hints()).rows) == ["south/x.wav"]
    (tmp_path / "south/e.csv").unlink()
    with pytest.raises(UserError, match=r"row 3: 'b/y.wav' is another file than 'a/y'"):
        read("a/y.wav,0,1,dog\nb/y.wav,0,1,dog\n")
    (tmp_path / "more.csv").write_text(HEAD + "y.wav,0,1,dog\ny.wav,2,3,dog\n")
    found = read("y.wav,0,1,dog\n")  # two tables of a tool add up
    assert [event.onset for event in found.rows["y.wav"].events] == [0, 2]
    assert "e.csv, more.csv are put together" in next(p.detail for p in found.problems)
    (tmp_path / "more.csv").unlink()
    (tmp_path / "y.txt").write_text("0.0\t1.0\tdog\n2.0\t3.0\tcat\n")
    with pytest.raises(UserError, match=r"y.txt.* disagree, such as on 'cat' at 2 s"):
        read_annotations(tmp_path, Hints())
    (tmp_path / "y.txt").unlink()
    touch(tmp_path, "copies/y.wav")
    assert sorted(read("./y.wav,0,1,dog\ncopies/y.wav,0,1,dog\n").rows) == ["copies/y.wav", "y.wav"]
    # What was deleted from a folder is missing, even if another folder has a file of that name.
    (tmp_path / "north/x.wav").unlink()
    touch(tmp_path, "north/z.wav")
    found = read("North\\x.wav,0,1,dog\nnorth/z.wav,0,1,dog\n")
    assert list(found.rows) == ["north/z.wav"]
    assert [p.file for p in found.problems if p.kind == "missing"] == ["North\\x.wav"]
