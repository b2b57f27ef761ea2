"""Recordings with one table or none: splits by groups, clips, events at their times."""

import collections
import csv
import pathlib

import audio_files
import numpy as np
import pytest
from prepared_data import config, problems_of, read_split, report_of
from shared_tables import SHARED

from psl_jax.audio import decoding
from psl_jax.corpora import own_data
from psl_jax.corpora.own_data import OwnData
from psl_jax.data import split_index_files
from psl_jax.data.settings import DataSettings
from psl_jax.preparing.prepare_corpus import prepare
from psl_jax.runtime.errors import UserError

HEAD = "filename,onset,offset,label\n"


def recordings_of(data_dir: str) -> dict[str, list[dict]]:
    """The clips of each recording, in order, of all splits."""
    clips = {}
    for split in split_index_files.stored_splits(data_dir):
        clips |= read_split(data_dir, split)
    result = collections.defaultdict(list)
    for name in sorted(clips, key=lambda name: float((name + "@0").split("@")[1])):
        result[name.split("@")[0]].append(clips[name])
    return result


def test_events_lie_where_they_sound(tmp_path):
    """Bursts in silence, annotated by four tools: the clips hold them at their times, to 10 ms."""
    bursts = [(3.2, 4.7), (9.5, 21.25), (24.0, 25.0)]  # the second is in three clips of 10 s
    source = tmp_path / "source"
    for name, rate in (("a.wav", 48_000), ("b.flac", 22_050), ("c.ogg", 16_000), ("d.wav", 8_000)):
        time = np.arange(32 * rate) / rate
        sounds = sum((time >= on) & (time < off) for on, off in bursts)
        audio_files.write(source / name, 0.5 * sounds * np.sin(2 * np.pi * 440 * time), rate)
    raven = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tBegin File\tCall\n"
    lines = [f"{i}\tS 1\t1\t{on}\t{off}\ta.wav\tbeep\n" for i, (on, off) in enumerate(bursts)]
    (source / "a.Table.1.selections.txt").write_text(raven + "".join(lines))
    lines = [f"{on:.6f}\t{off:.6f}\tbeep\n" for on, off in bursts]
    (source / "b.txt").write_text("".join(lines))
    birdnet = "Start (s),End (s),Scientific name,Common name,Confidence,File\n"
    lines = [f"{on},{off},Beep beep,beep,0.9,D:\\x\\C.OGG\n" for on, off in bursts]
    (source / "results.csv").write_text(birdnet + "".join(lines))
    lines = [f"t\t\t{on:.3f}\t{off:.3f}\t{off - on:.3f}\tbeep\n" for on, off in bursts]
    media = '"#file:///x/d.wav -- offset: 0, duration: 00:00:32.000"\n'
    (source / "d.txt").write_text(media + "".join(lines))

    settings = config(source_dir=str(source), clip_seconds=10.0, annotated="throughout")
    data_dir = prepare(settings, tmp_path)
    recordings = recordings_of(data_dir)
    assert recordings.keys() == {"a", "b", "c", "d"}
    for name, clips in recordings.items():
        assert [len(clip["audio"]) for clip in clips[:3]] == [160_000] * 3 and len(clips) == 4
        audio = np.concatenate([clip["audio"] for clip in clips])
        (path,) = source.glob(f"{name}.[wfo]*")
        np.testing.assert_array_equal(audio, decoding.decode(path).samples)  # not one is lost
        times = [
            (10 * number + on, 10 * number + off)
            for number, clip in enumerate(clips)
            for on, off in zip(*(clip["events"][k] for k in ("onset", "offset")), strict=True)
        ]
        expected = [(3.2, 4.7), (9.5, 10), (10, 20), (20, 21.25), (24, 25)]
        np.testing.assert_allclose(times, expected, atol=1e-3)
        loud = np.abs(audio.reshape(-1, 80)).max(1) > 3000  # in 5 ms
        at = 0.005 * np.arange(len(loud))
        inside = np.any([(at > on + 0.01) & (at < off - 0.015) for on, off in bursts], axis=0)
        outside = np.all([(at < on - 0.015) | (at > off + 0.01) for on, off in bursts], axis=0)
        assert loud[inside].all() and not loud[outside].any()
        assert [clip["labels"].tolist() for clip in clips] == [[0], [0], [0], []]


def test_bad_rows_are_told_by_file_and_row(tmp_path):
    source = tmp_path / "source"
    audio_files.write_tones(source, "ä.wav", "b.wav", "c.wav", "left.wav", seconds=3.0)
    rows = "ä,0,1,dog\nä,2.5,3.5,dog\nä,3.5,4,dog\nb,4,5,dog\nnone.wav,0,1,dog\nc,0,1,cat\n"
    (source / "events.csv").write_text(HEAD + rows)
    data_dir = prepare(config(source_dir=str(source)), tmp_path)
    assert problems_of(data_dir, "ä.wav") == [
        (
            "event cut",
            "row 3 of events.csv: 2.5 to 3.5 s goes on after the end; cut there, at 3.00 s",
        ),
        ("bad event", "row 4 of events.csv: 3.5 to 4 s is after the end, at 3.00 s; left out"),
    ]
    assert [kind for kind, _ in problems_of(data_dir, "b.wav")] == ["bad event", "no label"]
    told = problems_of(data_dir, str(source))
    assert ("no splits", "no recording is left for eval") in told
    assert problems_of(data_dir, "none.wav")[0][1].startswith("row 6 of events.csv: no such")
    assert problems_of(data_dir, "left.wav")[0][0] == "not annotated"
    clips = recordings_of(data_dir)
    assert clips.keys() == {"ä", "c"}
    np.testing.assert_allclose(clips["ä"][0]["events"]["offset"], [1, 3])


def test_rows_are_the_same_again(tmp_path):
    """Splits by hand: events past the end leave a negative, and a clip that has events alone."""
    audio_files.write_tones(tmp_path, "a.wav", "b.wav", seconds=1.0)
    (tmp_path / "full.csv").write_text("filename,labels\na,\nb,cat\n")
    (tmp_path / "full_events.csv").write_text(HEAD + "a,2,3,cat\nb,0,1,cat\nb,2,3,cat\n")
    (tmp_path / "eval.csv").write_text(HEAD + "a,2,3,cat\nb,0,1,cat\n")
    own = OwnData(DataSettings(source_dir=str(tmp_path)))
    rows, problems = own.rows(), list(own.problems)
    labels = {split: {r.filename: r.labels for r in rows[split]} for split in rows}
    assert labels == {"full": {"a.wav": (), "b.wav": (0,)}, "eval": {"b.wav": (0,)}}
    assert own.rows() == rows and own.problems == problems


def test_folders_are_classes_and_the_splits_are_kept(tmp_path, capsys):
    source = tmp_path / "source"
    audio_files.write_tones(source, *(f"{('dog', 'cat')[n % 2]}/{n}.wav" for n in range(8)))
    data_dir = prepare(config(source_dir=str(source)), tmp_path)
    assert split_index_files.class_names(data_dir) == ("cat", "dog")
    splits = report_of(data_dir)["splits"]
    assert {name: split["clips"] for name, split in splits.items()} == {
        "full": 4, "validation": 2, "eval": 2, "balanced": 4
    }  # fmt: skip
    assert all(min(split["label_counts"].values()) for split in splits.values())
    assert "splits.csv has the split of each recording" in capsys.readouterr().out
    assert prepare(config(source_dir=str(source)), tmp_path) == data_dir
    unions = (pathlib.Path(data_dir) / "unions.json").rename(tmp_path / "lost")
    with pytest.raises(UserError, match=r"unions.json is missing, or lacks balanced: copy it"):
        prepare(config(source_dir=str(source)), tmp_path)
    unions.rename(pathlib.Path(data_dir) / "unions.json")

    rows = list(csv.reader((source / "splits.csv").read_text().splitlines()))[1:]
    table = "".join(f"{name},{'eval' if split == 'eval' else 'full'}\n" for name, split in rows)
    (source / "splits.csv").write_text("filename,split\n" + table)
    other = prepare(config(source_dir=str(source)), tmp_path)
    assert report_of(other)["splits"]["full"]["clips"] == 6
    audio_files.write(source / "dog" / "new.wav", audio_files.tone(0.3))
    with pytest.raises(UserError, match=r"no split for 1 recordings, such as dog/new.wav"):
        prepare(config(source_dir=str(source)), tmp_path)


def test_a_split_without_any_group_is_told(tmp_path):
    rows = {"north": "door\ndog", "south": "dog\ncat"}
    table = HEAD
    for site, labels in rows.items():
        audio_files.write(tmp_path / site / f"{site}.wav", audio_files.tone(0.3))
        table += "".join(f"{site},0,1,{label}\n" for label in labels.split())
    (tmp_path / "e.csv").write_text(table)
    (detail,) = (
        p.detail
        for _, p in OwnData(DataSettings(source_dir=str(tmp_path))).problems
        if p.kind == "no splits"
    )
    assert detail == (
        "2 groups are too few for full, validation, eval: nothing is in validation, eval. "
        "Write splits.csv (filename,split)"
    )


def test_three_folders_fill_three_splits(tmp_path):
    rows = {
        "north/1": "door",
        "north/2": "dog",
        "south/3": "dog",
        "south/4": "cat",
        "east/5": "dog",
    }
    audio_files.write_tones(tmp_path, *(f"{name}.wav" for name in rows))
    table = "".join(f"{name}.wav,0,1,{label}\n" for name, label in rows.items())
    (tmp_path / "e.csv").write_text(HEAD + table)
    assert not OwnData(DataSettings(source_dir=str(tmp_path))).problems
    split_rows = list(csv.DictReader((tmp_path / "splits.csv").read_text().splitlines()))
    placed = {(row["filename"].split("/")[0], row["split"]) for row in split_rows}
    assert len(placed) == 3 and {split for _, split in placed} == {"full", "validation", "eval"}


def test_without_labels_groups_fill_all_splits():
    assert {*own_data.assign_splits({"a": {}, "b": {0: 1}, "c": {0: 1}}).values()} == {
        "full", "validation", "eval"
    }  # fmt: skip


def test_of_two_folders_each_recording_is_a_group(tmp_path, capsys):
    names = ("north_1", "north_2", "south_1", "south_2")
    audio_files.write_tones(tmp_path, *(f"{name[:5]}/{name}.wav" for name in names))
    (tmp_path / "e.csv").write_text(HEAD + "".join(f"{name},0,1,dog\n" for name in names))
    problems = OwnData(DataSettings(source_dir=str(tmp_path), group_by="folder")).problems
    (detail,) = (problem.detail for _, problem in problems if problem.kind == "no splits")
    assert "2 groups are too few" in detail
    assert detail.endswith("give --group_by=recording (--config.data.group_by=recording)")
    (tmp_path / "splits.csv").unlink(missing_ok=True)
    OwnData(DataSettings(source_dir=str(tmp_path)))
    assert "2 folders are too few to split by" in capsys.readouterr().out
    splits = (tmp_path / "splits.csv").read_text()
    assert all(split in splits for split in ("full", "validation", "eval"))


def test_where_nothing_is_left_it_is_an_error_that_names_the_rows(tmp_path):
    audio_files.write_tones(tmp_path / "s", "a.wav", "b.wav", "c.wav")
    rows = "".join(f"{name},1500,2500,dog\n" for name in "abc")
    (tmp_path / "s" / "e.csv").write_text(HEAD + rows)
    with pytest.raises(UserError, match=r"(?s)no clip of split .*1500 to 2500 s is after the end"):
        prepare(config(source_dir=str(tmp_path / "s")), tmp_path)
    (tmp_path / "s" / "classes.csv").write_text("label\ndoge\n")
    with pytest.raises(UserError, match=r"(?s)no event.*'dog' \(near: doge\) not in the classes"):
        prepare(config(source_dir=str(tmp_path / "s")), tmp_path)


def test_folders_in_folders_of_classes(tmp_path):
    """They are told; where the outer ones may be splits, nothing is read."""
    audio_files.write_tones(tmp_path, "train/dog/a.wav", "train/cat/b.wav", "test/dog/c.wav")
    with pytest.raises(UserError, match=r"are its folders splits.*table for each split, test.csv"):
        OwnData(DataSettings(source_dir=str(tmp_path)))
    (tmp_path / "test").rename(tmp_path / "owl")
    own = OwnData(DataSettings(source_dir=str(tmp_path)))
    assert own.classes == ("owl", "train")
    assert "3 recordings lie in folders of folders" in own.problems[0][1].detail


def test_splits_as_people_edit_them(tmp_path):
    """In any case and writing of a path, with empty rows; a recording in two splits is an error."""
    path, names = tmp_path / "splits.csv", ["a.wav", "n/ü.wav"]
    path.write_text(
        "\ufefffilename;split\r\nA.WAV;full\r\nn\\u\u0308;eval\r\n;\r\nold.wav;eval\r\n"
    )
    assert own_data.read_splits(path, names) == {"a.wav": "full", "n/ü.wav": "eval"}
    path.write_text("filename,split\na.wav,full\nn/ü.wav,eval\na.wav,eval\n")
    with pytest.raises(UserError, match=r"line 4: a.wav is in eval and in full"):
        own_data.read_splits(path, names)
    path.write_text("filename,split\na.wav,full\nn/ü.wav,my split\n")
    with pytest.raises(UserError, match=r"line 3: 'my split' is no name of a split"):
        own_data.read_splits(path, names)


def test_groups():
    names = ["n/a1.wav", "n/b2.wav", "s/a3.wav", "e/b4.wav"]
    days = dict(zip(names, ["mon", "mon", "tue", "mon"], strict=True))
    found = {
        group_by: set(own_data.groups_of(names, group_by, days).values())
        for group_by in ("folder", "recording", r"/([ab])\d", "day")
    }
    assert found == {
        "folder": {"n", "s", "e"},
        "recording": set(names),
        r"/([ab])\d": {"a", "b"},
        "day": {"mon", "tue"},
    }


def test_every_class_is_in_every_split_where_groups_allow_it():
    rng = np.random.default_rng(3)
    groups = {
        f"site{i}": {int(c): int(rng.integers(1, 40)) for c in rng.choice(12, 3, replace=False)}
        for i in range(60)
    }
    groups |= {f"rare{i}": {12: 1, i: 5} for i in range(3)}
    splits = own_data.assign_splits(groups)
    assert splits.keys() == groups.keys()
    assert splits == own_data.assign_splits(dict(reversed(groups.items())))
    for label in range(13):
        clips = collections.Counter()
        for group, counts in groups.items():
            clips[splits[group]] += counts.get(label, 0)
        assert min(clips[split] for split in own_data.SHARES) > 0, label
    groups = {f"{label}-{i}": {label: 5} for label in range(3) for i in range(20)}
    splits = own_data.assign_splits(groups)
    counts = collections.Counter((group.split("-")[0], split) for group, split in splits.items())
    shares = {"full": 14, "validation": 3, "eval": 3}
    assert counts == {(str(k), split): n for k in range(3) for split, n in shares.items()}
    folds = own_data.assign_splits(groups, 5)
    counts = collections.Counter((group.split("-")[0], fold) for group, fold in folds.items())
    assert counts == {(str(k), f"fold{n}"): 4 for k in range(3) for n in range(1, 6)}
    assert set(own_data.assign_splits({"a": {0: 1}, "b": {0: 1}}).values()) == {"full"}


def test_a_column_of_groups_and_what_may_be_wrong_with_it(tmp_path):
    names = [f"{number}.wav" for number in range(12)]
    audio_files.write_tones(tmp_path, *names)
    rows = "".join(f"{name},dog,{number % 4}\n" for number, name in enumerate(names))
    for more, column, told in (
        ("0,cat,2\n", "day", r"row 14: 0.wav has the group '2', and '0'"),
        ("", "site", r"'site'.*empty for 0.wav"),
    ):
        (tmp_path / "e.csv").write_text(f"filename,label,day\n{rows}{more}")
        with pytest.raises(UserError, match=told):
            OwnData(DataSettings(source_dir=str(tmp_path), group_by=column))
    OwnData(DataSettings(source_dir=str(tmp_path), group_by="day"))
    split_of = own_data.read_splits(tmp_path / "splits.csv", names)
    days = {(number % 4, split_of[name]) for number, name in enumerate(names)}
    assert len(days) == 4 and len({split for _, split in days}) == 3


@pytest.mark.skipif(
    not (SHARED / "urbansound8k_16k").is_dir(), reason="needs data/urbansound8k_16k"
)
def test_no_source_of_urbansound8k_is_in_two_splits(tmp_path):
    """Two folds as one table: all splits have all classes, and a recording is in one of them."""
    folder = SHARED / "urbansound8k_16k"
    rows = list(csv.DictReader((folder / "meta.csv").read_text().splitlines()))
    (tmp_path / "audio").mkdir()
    for row in rows:
        (tmp_path / "audio" / row["filename"]).symlink_to(folder / row["filename"])
    (tmp_path / "table.csv").write_text((folder / "meta.csv").read_text())
    OwnData(DataSettings(source_dir=str(tmp_path), group_by="fsid"))
    with (tmp_path / "splits.csv").open() as file:
        split_of = {pathlib.Path(r["filename"]).name: r["split"] for r in csv.DictReader(file)}
    assert split_of.keys() == {row["filename"] for row in rows}
    assert len({(row["fsid"], split_of[row["filename"]]) for row in rows}) == len(
        {row["fsid"] for row in rows}
    )
    pairs = {(row["category"], split_of[row["filename"]]) for row in rows}
    assert len(pairs) == 10 * 3
