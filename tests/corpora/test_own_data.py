"""A folder of one's own: every good clip arrives, every bad file, row and event is reported."""

import os
import pathlib

import audio_files
import numpy as np
import pytest
from prepared_data import config, problems_of, read_split, report_of, small_folder

from psl_jax.corpora.annotations.table_events import Hints
from psl_jax.corpora.corpus import ClipRow
from psl_jax.corpora.own_folder import OwnFolder, read_own_folder
from psl_jax.corpora.recording_clips import Coverage, MeasuredRecording, cut_recording
from psl_jax.corpora.stored_audio import FileAudio
from psl_jax.data import split_index_files
from psl_jax.preparing.prepare_corpus import prepare
from psl_jax.runtime.errors import UserError


def write_own_folder(root: pathlib.Path) -> dict[str, str]:
    """A folder with good clips of every form and each bad kind; returns the bad files' kinds."""
    bad = audio_files.bad_files(root / "bad")
    good = {
        "audio/-dash.flac": (audio_files.int16_noise(32_000, seed=1), 16_000),
        "audio/_under.wav": (audio_files.int16_noise(48_000, seed=2), 16_000),
        "audio/8k.wav": (audio_files.tone(2.0, 8_000), 8_000),
        "audio/six.wav": (audio_files.tone(2.0, 48_000, 6), 48_000),
        "audio/lossy.ogg": (audio_files.tone(2.0), 16_000),
        "audio/lossy.mp3": (audio_files.tone(2.0), 16_000),
        "audio/long.wav": (audio_files.tone(5 * 60, 8_000), 8_000),
        "audio/silent.wav": (np.zeros(16_000), 16_000),
        "audio/twice.wav": (audio_files.tone(1.0), 16_000),
        "audio/two labels.wav": (audio_files.tone(1.0), 16_000),
    }
    for name, (samples, rate) in good.items():
        audio_files.write(root / name, samples, rate)
    rows = [(name, "dog;cat") for name in good]
    rows += [
        ("audio/twice.wav", "cat;dog"),
        ("./audio/two labels.wav", "bird"),
        ("audio/unknown one.wav", "dog;wolf"),
        ("audio/unknown all.wav", "wolf"),
        ("audio/no label.wav", " ; "),
        ("audio/none.wav", "dog"),
    ]
    for name in ("unknown one", "unknown all", "no label", "apart"):
        audio_files.write(root / f"audio/{name}.wav", audio_files.tone(1.0))
    rows += [(f"bad/{name}", "dog") for name in bad]
    audio_files.write_table(root / "full.csv", "filename,labels", rows)
    audio_files.write_table(
        root / "full_events.csv",
        "filename,onset,offset,label",
        [
            ("audio/-dash.flac", "0.5", "1.25", "dog"),
            ("audio/-dash.flac", "1.5", "2.01", "cat"),  # 2 s long: trimmed
            ("audio/long.wav", "3", "6", "dog"),  # in two clips of 4 s
            ("audio/long.wav", "100", "110", "cat"),  # in three
            ("audio/_under.wav", "0", "1", "wolf"),
            ("audio/_under.wav", "7", "8", "dog"),
            ("audio/nobody.wav", "0", "1", "dog"),
            ("audio/apart.wav", "0", "1", "dog"),
        ],
    )
    audio_files.write_table(
        root / "eval.csv", "labels,filename,note", [("cat", "audio/8k.wav", "")]
    )
    audio_files.write_table(
        root / "classes.csv",
        "index,mid,display_name",
        [(1, "/m/1", "cat"), (0, "/m/0", "dog"), (2, "/m/2", "bird"), (3, "/m/3", "Fish, frying")],
    )
    bad["folder.wav"] = "missing"  # no file
    return {f"bad/{name}": kind for name, kind in bad.items()}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """(folder, kinds of its bad files, prepared data directory)."""
    root = tmp_path_factory.mktemp("own")
    bad = write_own_folder(root / "source")
    data_dir = prepare(config(source_dir=str(root / "source")), root)
    return root / "source", bad, data_dir


def test_good_clips_arrive(own):
    _, _, data_dir = own
    records = read_split(data_dir, "full")
    assert set(records) == {
        *("-dash", "_under", "8k", "six", "silent", "twice", "two labels", "no label"),
        *("long@0", "long@4", "long@100", "long@104", "long@108"),  # those with events
        *("unknown one", "audio/lossy.ogg", "audio/lossy.mp3"),  # the stem names two files
    }
    lengths = {clip_id: len(record["audio"]) for clip_id, record in records.items()}
    assert lengths["8k"] == lengths["six"] == 32_000
    assert lengths["long@0"] == lengths["long@108"] == 64_000
    for name, samples, seed in (("-dash", 32_000, 1), ("_under", 48_000, 2)):
        expected = audio_files.int16_noise(samples, seed=seed)
        np.testing.assert_array_equal(records[name]["audio"], expected)
    assert list(read_split(data_dir, "eval")) == ["8k"]
    assert split_index_files.class_names(data_dir) == ("dog", "cat", "bird", "Fish, frying")
    assert (pathlib.Path(data_dir) / "classes.csv").read_text().endswith('3,/m/3,"Fish, frying"\n')


def test_labels_and_events(own):
    records = read_split(own[2], "full")
    assert records["-dash"]["labels"].tolist() == [0, 1]
    assert records["two labels"]["labels"].tolist() == [0, 1, 2]  # of two rows
    assert records["unknown one"]["labels"].tolist() == [0]
    events = records["-dash"]["events"]
    np.testing.assert_allclose(events["onset"], [0.5, 1.5])
    np.testing.assert_allclose(events["offset"], [1.25, 2.0])
    assert events["label"].tolist() == [0, 1]
    events = {at: records[f"long@{at}"]["events"] for at in (0, 4, 100, 108)}
    times = [(e["onset"].item(), e["offset"].item()) for e in events.values()]
    assert times == [(3, 4), (0, 2), (0, 4), (0, 2)]
    assert [records[f"long@{at}"]["labels"].item() for at in events] == [0, 0, 1, 1]
    assert records["_under"]["events"]["onset"].tolist() == []
    assert split_index_files.load_index(own[2], "full").has_events
    assert not split_index_files.load_index(own[2], "eval").has_events


@pytest.mark.parametrize("clip_seconds", [0.96, 1.2, 2.4])
def test_what_ends_where_a_clip_ends_is_not_in_the_next(clip_seconds):
    """7 * 2.4 is less than 16.8, and 16.8 / 2.4 more than 7, in floating point."""
    for number in range(40):
        onset, offset = (round(n * clip_seconds, 2) for n in (number, number + 1))
        row = ClipRow("a", "a.wav", FileAudio("a.wav"), (0,), ((onset, offset, 0),))
        coverage = Coverage(frozenset({0, 1}), True, True, unsure=((onset, offset, 1),))
        recording = MeasuredRecording(row, 41 * clip_seconds, coverage)
        clips, _ = cut_recording(recording, clip_seconds, num_classes=2)
        assert len(clips) == 41
        assert [n for n, clip in enumerate(clips) if clip.labels] == [number]
        assert [n for n, clip in enumerate(clips) if clip.events] == [number]
        assert [n for n, clip in enumerate(clips) if clip.unknown] == [number]


def test_every_bad_file_is_reported_in_its_place(own):
    _, bad, data_dir = own
    for name, kind in bad.items():
        assert [k for k, _ in problems_of(data_dir, name)] == [kind], name
    report = report_of(data_dir)
    full = report["splits"]["full"]
    assert full["clips"] == 16
    assert full["rows"] == 16 + len(bad) + 2  # one states that it has two clips of 4 s


@pytest.mark.parametrize(
    ("file", "kind", "detail"),
    [
        ("audio/long.wav", "not annotated", "70 of 75 clips hold no event and are left out"),
        ("audio/silent.wav", "silent", "every sample is zero; kept"),
        ("audio/unknown one.wav", "unknown label", "'wolf' not in the classes; left out"),
        ("audio/unknown all.wav", "no label", "left out"),
        ("audio/no label.wav", "nothing in it", "labels ';' name nothing"),
        ("audio/none.wav", "missing", "row 17 of full.csv: no such recording in the folder"),
        ("audio/_under.wav", "unknown label", "row 6 of full_events.csv: 'wolf' not in the cla"),
        ("audio/_under.wav", "bad event", "row 7 of full_events.csv: 7 to 8 s is after the end"),
        ("audio/nobody.wav", "missing", "row 8 of full_events.csv: no such recording"),
        ("audio/apart.wav", "event without clip", "row 9 of full_events.csv: full.csv does"),
    ],
)
def test_rows_and_events_that_are_changed_or_left_out(own, file, kind, detail):
    found = problems_of(own[2], file)
    assert any(k == kind and d.startswith(detail) for k, d in found), found


def test_summary_counts(own, capsys):
    source, bad, data_dir = own
    workdir = pathlib.Path(data_dir).parents[3]
    prepare(config(source_dir=str(source)), workdir)
    output = capsys.readouterr().out
    assert f"full: 16 of {16 + len(bad) + 2} clips" in output
    # The problems were told once, when the data was made.
    assert "truncated" not in output and "problems, told when it was made: " in output
    summary = (pathlib.Path(data_dir) / "report.txt").read_text()
    assert "truncated: 2\n" in summary and "full: bad/truncated.flac: ends after" in summary
    full = report_of(data_dir)["splits"]["full"]
    assert f"  dog           {0:>10}  {full['label_counts']['dog']:>10}\n" in summary
    assert f"delete {data_dir} first" in output


def test_classes_are_found_and_changed_tables_prepare_afresh(tmp_path):
    folder = small_folder(tmp_path / "source", "dog|a  bird|")
    first = prepare(config(source_dir=str(folder), label_separator="|"), tmp_path)
    assert split_index_files.class_names(first) == ("a bird", "dog")
    with open(folder / "train.csv", "a") as file:
        file.write("0.wav,cat\n")
    second = prepare(config(source_dir=str(folder), label_separator="|"), tmp_path)
    assert second != first
    assert split_index_files.class_names(second) == ("a bird", "cat", "dog")


def read(folder) -> OwnFolder:
    return read_own_folder(folder, Hints())


def test_labels_may_be_mids_and_classes_one_column(tmp_path):
    folder = small_folder(tmp_path / "a", "/m/7;cat")
    table = [("0", "/m/7", "dog"), ("1", "/m/8", "cat")]
    audio_files.write_table(folder / "classes.csv", "index,mid,display_name", table)
    assert read(folder).splits["train"]["0.wav"].row.labels == (0, 1)
    folder = small_folder(tmp_path / "b", "dog")
    audio_files.write_table(folder / "classes.csv", "label", [("zebra",), ("dog",)])
    found = read(folder)
    assert found.classes == ("zebra", "dog")
    assert found.splits["train"]["0.wav"].row.labels == (1,)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("train.csv", "file,note\n0.wav,dog\n", "row 1: no column of labels.*file,note|file, note"),
        ("train.csv", "", "is empty"),
        ("train.csv", 'filename,labels\n0.wav,"dog\n1.wav,cat\n', "row 2: .*quote .* not closed"),
        ("train.csv", 'filename,labels\n0.wav,"dog\n1.wav,cat"\n', "row 2: .*several lines"),
        ("train.csv", "filename,labels\n", "no event and no label of a recording"),
        ("train.csv", "filename,labels\nx.wav,dog\n", "(?s)no event and no label.*x.wav: missing"),
        ("my-split.csv", "filename,labels\n0.wav,dog\n", "letters, digits and '_'"),
        ("train_events.csv", "filename,onset,offset\n", "no column of labels"),
        ("classes.csv", "index,mid,display_name\n0,a,x\n2,b,y\n", "must count 0, 1, 2"),
        ("classes.csv", "index,mid,display_name\n0,a,x\n1,b,x\n", "named twice"),
        ("classes.csv", b"\xff\xfe", "not a table in UTF-8"),
        ("classes.csv", "name\nx\n", "expected index,mid,display_name"),
    ],
)
def test_tables_of_another_form(tmp_path, name, content, match):
    small_folder(tmp_path)
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=match) as caught:
        read(tmp_path)
    assert name in str(caught.value)


# Files, tables (filename,labels or filename,onset,offset,label where they have no header), labels
# of the recordings of each split, a word of a problem's kind and detail, classes.
BY_HAND = {
    "a missing clip is no clip of another folder": (
        ["train/1.wav", "train/2.wav"],
        {"full": "train/1.wav,dog\nTRAIN\\2,cat", "eval": "test/1.wav,owl"},
        {"full": {"train/1.wav": "dog", "train/2.wav": "cat"}, "eval": {}},
        "missing: row 2 of eval.csv",
        "cat dog owl",  # whatever is on disk
    ),
    "a clip whose folder is missing": (
        ["x/1.wav"],
        {"full": "x/1.wav,dog\ny/1.wav,cat"},
        {"full": {"x/1.wav": "dog"}},
        "missing: row 3",
        "cat dog",
    ),
    "the exact path comes first": (
        ["a.wav", "A.wav", "copies/a.wav"],
        {"full": "a.wav,dog\n./A.wav,cat"},
        {"full": {"a.wav": "dog", "A.wav": "cat"}},
        "",
        "cat dog",
    ),
    "events are those of the split's clips": (
        ["a.wav", "z.wav", "b.wav"],
        {
            "full": "a.wav,\nb.wav,",
            "full_events": "a.wav,0,1,dog\nz.wav,0,1,cat?\nz.wav,0,1,nocall\nz.wav,,,\n"
            "z.wav,0,1,cat",
        },
        {"full": {"a.wav": "", "b.wav": ""}},
        "event without clip: row 3, 4, 6 of full_events.csv: full.csv does not name",
        "cat dog",
    ),
    "an event of a clip without labels": (
        ["a.wav", "b.wav"],
        {"full": "a.wav,\nb.wav,dog", "full_events": "a.wav,0,1,dog\nb.wav,0,1,;"},
        {"full": {"a.wav": "", "b.wav": "dog"}},
        "no label: row 3 of full_events.csv: ';' names no class",
        "dog",
    ),
    "negatives": (
        ["a.wav", "b.wav", "c.wav", "d.wav"],
        {"full": "a.wav,[]\nb.wav,;\nc.wav,dog\nd.wav,wolf", "classes": "label\ndog"},
        {"full": {"a.wav": "", "b.wav": "", "c.wav": "dog"}},
        "no label: left out",
        "dog",
    ),
    "paths of any file": (
        [".a.wav", "b.xyz", "../c.wav"],
        {"full": ".a.wav,dog\nb.xyz,dog\n../c.wav,dog\nABSOLUTE/b.xyz,cat"},
        {"full": {".a.wav": "dog", "b.xyz": "dog", "../c.wav": "dog", "ABSOLUTE/b.xyz": "cat"}},
        "",
        "cat dog",
    ),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_splits_by_hand_hold_what_their_tables_name(tmp_path, case):
    files, tables, expected, problem, classes = BY_HAND[case]
    folder = tmp_path / "source"
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for name, text in tables.items():
        header = "filename,onset,offset,label" if name.endswith("_events") else "filename,labels"
        header = "" if text.startswith(("filename", "label")) else f"{header}\n"
        (folder / f"{name}.csv").write_text(header + text.replace("ABSOLUTE", str(folder)))
    own = read_own_folder(folder, Hints({"label": "labels"}))  # which tables of events lack
    assert own.classes == tuple(classes.split())
    assert {
        split: {
            name.replace(str(folder), "ABSOLUTE"): " ".join(
                own.classes[k] for k in recording.row.labels
            )
            for name, recording in recordings.items()
        }
        for split, recordings in own.splits.items()
    } == expected
    problems = [f"{problem.kind}: {problem.detail}" for _, problem in own.problems]
    assert not problem or any(text.startswith(problem) for text in problems), problems
    for split, recordings in own.splits.items():
        has_events = any(recording.events for recording in recordings.values())
        assert has_events == (f"{split}_events" in tables)
        for recording in recordings.values():
            assert os.path.exists(recording.row.audio.path)
            coverage = recording.find_coverage(2, keeps_background=False)
            assert recording.row.labels or coverage.keeps_background  # a negative is one
    with pytest.raises(UserError, match=r"data.columns names 'Art', which is read from no table"):
        read_own_folder(folder, Hints({"label": "Art"}))
