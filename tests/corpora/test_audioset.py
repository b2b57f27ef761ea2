"""AudioSet: its tables, every layout of its audio, strong labels, Aud-300h."""

import os
import pathlib
import shutil
import string

import audio_files
import audioset_layouts
import numpy as np
import prepared_data
import pytest
from audioset_tables import CLASSES, HEADER, MIDS, NAMES, segment, write_csv
from prepared_data import problems_of, read_split, report_of
from shared_tables import SHARED, needs_audioset

from psl_jax.corpora import audioset
from psl_jax.corpora.audioset import (
    ListedClip,
    match_filename,
    read_segments,
    read_strong_labels,
)
from psl_jax.data import split_index_files
from psl_jax.preparing import builder
from psl_jax.runtime.errors import UserError


def write_clips(folder: pathlib.Path, ids) -> None:
    audio_files.write_tones(folder, *(f"{clip}.wav" for clip in ids), seconds=10.0)


def build(source, root, **settings):
    return prepared_data.build(audioset.AudioSet(source_dir=source, **settings), root)


@needs_audioset
@pytest.mark.parametrize(("name", "rows"), [("balanced_train", 22_160), ("eval", 20_371)])
def test_real_tables_parse_fully(name, rows):
    segments, problems = read_segments(SHARED / f"audioset/{name}_segments.csv", CLASSES)
    assert problems == []
    assert len(segments) == len({s.id for s in segments}) == rows
    assert {label for s in segments for label in s.labels} == set(range(527))
    assert {s.id[0] for s in segments} > {"-", "_", "Y"}
    first = {
        "balanced_train": ("--PJHxphWEs", 30.0, 40.0, {"Gush", "Speech"}),
        "eval": ("--4gqARaEJE", 0.0, 10.0, {"Animal", "Domestic animals, pets", "Dog", "Squeak"}),
    }
    clip = segments[0]
    assert (clip.id, clip.start, clip.end, {NAMES[label] for label in clip.labels}) == first[name]


EVERY_LETTER = string.ascii_letters + string.digits + "-_"  # of YouTube's ids


def random_segments(count: int, seed: int) -> list[ListedClip]:
    """Segments as the real tables have them, but of 0.3 to 3 s: short ones are quick."""
    rng = np.random.default_rng(seed)
    segments = []
    for number in range(count):
        first = "-_Y"[number % 6] if number % 6 < 3 else ""  # where names are easily misread
        clip = first + "".join(rng.choice(list(EVERY_LETTER), 11 - len(first)))
        start = 0.0 if number % 4 == 0 else round(rng.uniform(0, 400), 3)
        end = round(start + rng.uniform(0.3, 3.0), 3)
        labels = rng.choice(527, rng.integers(1, 6), replace=False)
        segments.append(segment(clip, start, end, sorted(labels.tolist())))
    return segments


SEGMENTS = {
    split: {s.id: s for s in random_segments(count, seed)}
    for split, count, seed in (("balanced", 36, 0), ("eval", 24, 1))
}


@pytest.mark.parametrize("layout", audioset_layouts.LAYOUTS)
def test_every_layout_gives_the_same_records(layout, tmp_path):
    both = SEGMENTS["balanced"] | SEGMENTS["eval"]
    assert len(both) == 60
    audioset_layouts.LAYOUTS[layout](tmp_path / "source", both)
    tables = tmp_path / "tables"
    write_csv(tables / audioset.BALANCED, SEGMENTS["balanced"].values())
    write_csv(tables / audioset.EVAL, SEGMENTS["eval"].values())
    data_dir = build(tmp_path / "source", tmp_path, labels_dir=tables)
    shutil.rmtree(tmp_path / "source")
    assert split_index_files.class_names(data_dir) == NAMES
    assert report_of(data_dir)["problems"] == []
    for split, segments in SEGMENTS.items():
        records = read_split(data_dir, split)
        assert set(records) == set(segments)
        for clip, record in records.items():
            assert tuple(record["labels"]) == segments[clip].labels
            expected = audioset_layouts.resampled(segments[clip])
            assert len(record["audio"]) == len(expected)
            np.testing.assert_allclose(record["audio"], expected, atol=1)  # of 32768


def test_faults_of_segment_tables(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(
        HEADER + 'aaaaaaaaaaa, 0.000, 10.000, "/m/09x0r,/m/none"\n'
        'aaaaaaaaaaa, 10.000, 20.000, "/m/09x0r"\n'
        'short, 0.000, 10.000, "/m/09x0r"\n'
        'bbbbbbbbbbb, 10.000, 10.000, "/m/09x0r"\n'
        'ccccccccccc, 0.000, 10.000, "/m/none"\n'
        "ddddddddddd, 0.000, 10.000, /m/09x0r,/t/dd00088\n"
    )
    segments, problems = read_segments(path, CLASSES)
    assert segments == [ListedClip("aaaaaaaaaaa", 0.0, 10.0, (0,))]
    found = [(p.file, p.kind) for p in problems]
    assert found == [
        ("aaaaaaaaaaa", "duplicate row"),
        ("short", "bad row"),
        ("bbbbbbbbbbb", "bad row"),
        ("ccccccccccc", "no label"),
        ("ddddddddddd", "bad row"),
        ("x.csv", "unknown label"),
    ]
    assert problems[0].detail == "line 5: the first is kept"
    assert problems[-1].detail.startswith("'/m/none' (2 times)")
    path.write_text("filename,labels\n")
    with pytest.raises(UserError, match=r"x\.csv: no segment found"):
        read_segments(path, CLASSES)


@pytest.fixture
def small(tmp_path):
    """A balanced table of six clips, the audio of four of them, and files of other kinds."""
    ids = [f"{letter * 11}" for letter in "abcdef"]
    source = tmp_path / "source"
    write_csv(source / audioset.BALANCED, [segment(clip, labels=(1, 2)) for clip in ids])
    write_clips(source / "audio", ids[:4])
    audio_files.write_tones(source, f"copy/Y{ids[0]}.flac", f"{ids[4]}_0_10000.wav", "music.wav")
    (source / "half.tar").write_bytes(b"no tar" * 100)
    (source / "half.parquet").write_bytes(b"no parquet")
    (source / "all.tar.gz").write_bytes(b"")
    return source, ids


def test_each_loss_is_in_its_place(small, tmp_path):
    source, ids = small
    audio_files.write(source / "audio" / f"{ids[1]}.wav", np.zeros(160_000))
    audio_files.write(source / "audio" / f"{ids[2]}.wav", audio_files.tone(0.01))
    data_dir = build(source, tmp_path)
    assert set(read_split(data_dir, "balanced")) == {ids[0], ids[1], ids[3]}
    report = report_of(data_dir)["splits"]["balanced"]
    assert (report["rows"], report["clips"]) == (6, 3)
    assert report["label_counts"][NAMES[1]] == 3 and report["label_counts"][NAMES[0]] == 0
    assert report["problems"] == {"missing": 2, "silent": 1, "too short": 1}
    expected = {
        ids[4]: ("missing", "no audio by this id"),
        f"audio/{ids[1]}.wav": ("silent", "every sample is zero; kept"),
        f"{ids[4]}_0_10000.wav": ("other segment", "the clip is from 30 to 40 s; left out"),
        f"copy/Y{ids[0]}.flac": ("duplicate", f"audio/{ids[0]}.wav is kept"),
        "music.wav": ("not used", "1 files of no clip of these splits, this is the first"),
    }
    for file, problem in expected.items():
        assert problems_of(data_dir, file) == [problem]
    for file in ("half.tar", "half.parquet", "all.tar.gz"):
        assert [kind for kind, _ in problems_of(data_dir, file)] == ["unreadable"]
    summary = (pathlib.Path(data_dir) / "report.txt").read_text()
    assert "balanced: 3 of 6 clips" in summary and "50.00 % of its clips are not there" in summary


def test_a_clip_is_its_span_of_a_whole_recording(tmp_path):
    """The clip is from 30 to 40 s: seconds 0 to 10 of its video have other labels."""
    lengths = {"a": 60.0, "b": 10.0, "c": 9.3, "d": 40.0, "e": 35.0, "f": 2.0, "g": 0.5, "h": 39.8}
    source = tmp_path / "source"
    write_csv(source / audioset.BALANCED, [segment(letter * 11) for letter in lengths])
    for letter, seconds in lengths.items():
        samples = audio_files.int16_noise(round(seconds * 16_000), seed=ord(letter))
        audio_files.write(source / f"{letter * 11}.wav", samples)
    data_dir = build(source, tmp_path)
    records = read_split(data_dir, "balanced")
    assert set(records) == {letter * 11 for letter in "abcdh"}
    for letter in "abcdh":
        whole = audio_files.int16_noise(round(lengths[letter] * 16_000), seed=ord(letter))
        expected = whole[480_000:640_000] if letter in "adh" else whole
        np.testing.assert_array_equal(records[letter * 11]["audio"], expected, err_msg=letter)
    found = {letter: problems_of(data_dir, f"{letter * 11}.wav") for letter in lengths}
    assert [kind for kind, _ in found["a"]] == ["whole recording"]
    assert found["b"] == found["c"] == []
    for letter in "efg":
        ((kind, detail),) = found[letter]
        assert kind == "other length" and "from 30 to 40 s" in detail


def test_a_name_that_is_no_utf8_harms_nothing(small, tmp_path):
    source, ids = small
    os.rename(source / "music.wav", source / os.fsdecode(b"caf\xe9.wav"))
    os.rename(source / "half.tar", source / os.fsdecode(b"half\xff.tar"))
    data_dir = build(source, tmp_path)
    assert set(read_split(data_dir, "balanced")) == set(ids[:4])
    names = [problem["file"] for problem in report_of(data_dir)["problems"]]
    assert "half\\xff.tar" in names and "caf\\xe9.wav" in names


def test_nothing_matches(tmp_path):
    source = tmp_path / "source"
    write_csv(source / audioset.BALANCED, [segment("a" * 11), segment("b" * 11)])
    write_clips(source, ["x" * 11])
    with pytest.raises(UserError) as caught:
        build(source, tmp_path)
    for part in ("a" * 11, f"  {'x' * 11}.wav", "a Y before", "{id}_{start}_{end}", "'balanced'"):
        assert part in str(caught.value)
    assert not list(tmp_path.rglob("dataset_info.json"))
    write_csv(source / audioset.EVAL, [segment("x" * 11)])
    with pytest.raises(UserError, match="Other splits have audio: leave this one out"):
        build(source, tmp_path)
    assert read_split(build(source, tmp_path, splits=["eval"]), "eval")


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"labels_dir": "AUDIO"}, r"'balanced' needs balanced_train_segments.*possible now: none"),
        ({"splits": ["test"]}, "no split 'test', expected some of balanced, eval, full, aud300h"),
        ({"splits": ["full"]}, r"'full' needs unbalanced_train_segments.csv.*possible now: balan"),
        ({"labels_dir": "/no/such"}, "/no/such is not a folder"),
    ],
)
def test_settings_that_cannot_be(small, tmp_path, settings, match):
    settings = {k: small[0] / "audio" if v == "AUDIO" else v for k, v in settings.items()}
    with pytest.raises(UserError, match=match):
        build(small[0], tmp_path, **settings)


STRONG = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"


def test_strong_labels(tmp_path):
    path = tmp_path / "audioset_eval_strong.tsv"
    path.write_text(
        STRONG + f"{'a' * 11}_30000\t0.000\t1.5\t/m/09x0r\n"
        f"{'a' * 11}_30000\t2.0\t2.0\t/m/09x0r\n"
        f"{'a' * 11}_30000\t2.0\t3.0\t/m/other\n"
        f"{'a' * 11}_0\t2.0\t3.0\t/m/09x0r\n"
        f"{'z' * 11}_0\t2.0\t3.0\t/m/09x0r\n"
    )
    segments = {"a" * 11: segment("a" * 11)}
    events, problems = read_strong_labels(path, segments, CLASSES)
    assert events == {"a" * 11: [(0.0, 1.5, 0)]}
    assert [p.kind for p in problems] == ["bad event", "bad event", "unknown label"]


def test_strong_labels_become_events(small, tmp_path):
    source, ids = small
    (source / "audioset_train_strong.tsv").write_text(
        STRONG + f"{ids[0]}_30000\t0.05\t0.1\t{MIDS[1]}\n{ids[0]}_30000\t0.1\t9.5\t{MIDS[7]}\n"
    )
    data_dir = build(source, tmp_path)
    records = read_split(data_dir, "balanced")
    np.testing.assert_allclose(records[ids[0]]["events"]["onset"], [0.05, 0.1])
    np.testing.assert_allclose(records[ids[0]]["events"]["offset"], [0.1, 9.5])
    assert records[ids[0]]["events"]["label"].tolist() == [1, 7]
    assert records[ids[1]]["events"]["label"].tolist() == []
    assert split_index_files.load_index(data_dir, "balanced").has_events


def unbalanced_segments() -> list[ListedClip]:
    """500 clips of class 0, 200 of class 1, 30 of class 2, and 20 of both 0 and 3."""
    kinds = [("a", 500, (0,)), ("b", 200, (1,)), ("c", 30, (2,)), ("d", 20, (0, 3))]
    return [
        segment(f"{letter}{number:010d}", labels=labels)
        for letter, count, labels in kinds
        for number in range(count)
    ]


def test_at_most_200_clips_a_label():
    clips = unbalanced_segments()
    chosen = audioset.choose_per_label(clips, 200)
    ids = {s.id for s in chosen}
    assert len(ids) == len(chosen)
    assert sum(clip[0] == "b" for clip in ids) == 200  # just as many as there may be
    assert sum(clip[0] == "c" for clip in ids) == 30  # all there are
    assert sum(clip[0] == "d" for clip in ids) == 20  # all, for their rare label
    # Class 0 draws 200 of its 520 clips; those of "d" among them are chosen anyway.
    drawn = {s.id for s in audioset.choose_per_label([c for c in clips if 0 in c.labels], 200)}
    assert sum(clip[0] == "a" for clip in ids) == sum(clip[0] == "a" for clip in drawn)
    assert 180 <= sum(clip[0] == "a" for clip in ids) <= 200


def test_choice_depends_on_ids_alone():
    clips = unbalanced_segments()

    def choose(clips):
        return {s.id for s in audioset.choose_per_label(clips, 200)}

    assert choose(clips) == choose(clips[::-1])
    few = [s for s in clips if s.id[0] != "a"]
    assert choose(few) == {s.id for s in few}


@pytest.fixture
def both_sets(tmp_path, monkeypatch):
    """A folder of 5 balanced and 10 unbalanced clips of two classes, and their ids."""
    monkeypatch.setattr(audioset, "AUD300H_CLIPS_PER_LABEL", 3)
    balanced = [segment(f"bal{n:08d}", labels=(0,)) for n in range(5)]
    unbalanced = [segment(f"unb{n:08d}", labels=(n % 2,)) for n in range(10)]
    source = tmp_path / "source"
    write_csv(source / audioset.BALANCED, balanced)
    write_csv(source / audioset.UNBALANCED, unbalanced)
    write_clips(source, [s.id for s in balanced + unbalanced])
    return source, {s.id for s in balanced}, {s.id for s in unbalanced}


def ids_of(data_dir: str) -> dict[str, set[str]]:
    splits = split_index_files.splits(data_dir)
    return {split: set(split_index_files.load_index(data_dir, split).ids) for split in splits}


def test_full_and_aud300h_contain_the_balanced_clips(both_sets, tmp_path):
    source, balanced, unbalanced = both_sets
    data_dir = build(source, tmp_path, splits=["balanced", "full", "aud300h"])
    ids = ids_of(data_dir)
    assert ids["full"] == balanced | unbalanced
    assert ids["balanced"] == balanced < ids["aud300h"]
    assert sum(clip.startswith("unb") for clip in ids["aud300h"]) == 6
    stored = [
        split_index_files.load_index(data_dir, s) for s in split_index_files.stored_splits(data_dir)
    ]
    assert sum(map(len, stored)) == 15  # each clip is stored once


def test_a_split_that_is_asked_for_later_is_added(both_sets, tmp_path, monkeypatch):
    source, *_ = both_sets
    data_dir = build(source, tmp_path)
    stats = {path: path.stat() for path in pathlib.Path(data_dir).glob("*.tfrecord-*")}

    with monkeypatch.context() as patch:  # killed before the new split counts
        patch.setattr(builder, "write_metadata", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build(source, tmp_path, splits=["aud300h"])
    assert sorted(split_index_files.splits(data_dir)) == ["balanced", "full"]

    for splits in (["aud300h"], ["balanced", "full", "aud300h"], ["full"], []):
        assert build(source, tmp_path, splits=splits) == data_dir
    assert {path: path.stat() for path in stats} == stats
    apart = build(source, tmp_path / "apart", splits=["balanced", "full", "aud300h"])
    assert ids_of(data_dir).keys() == {"aud300h", "balanced", "full"}
    assert ids_of(data_dir) == ids_of(apart)
    report = report_of(data_dir)
    assert list(report["splits"]) == ["balanced", "full", "aud300h"]
    assert not list(pathlib.Path(data_dir).parent.glob("incomplete*"))


NAMED = {
    s.id: s
    for s in (
        segment("abc_DEF-123", 30.0),
        segment("-a_30000_40", 30.0),
        segment("Yabcdefghij", 0.0, 10.0),
        segment("abcdefghijk", 239.8, 249.8),
        segment("_bcdefghijk", 5.0, 15.0),
    )
}


FILE_NAMES = {
    "abc_DEF-123": "abc_DEF-123",
    "Yabc_DEF-123": "abc_DEF-123",
    "abc_DEF-123_30000": "abc_DEF-123",
    "abc_DEF-123_30000-40000": "abc_DEF-123",
    "Yabc_DEF-123_30000_40000": "abc_DEF-123",
    "abc_DEF-123_30.000_40.000": "abc_DEF-123",
    "-a_30000_40": "-a_30000_40",
    "-a_30000_40_30000": "-a_30000_40",
    "Yabcdefghij": "Yabcdefghij",
    "Yabcdefghijk": "abcdefghijk",
    "abcdefghijk_239800_249800": "abcdefghijk",
    "Y_bcdefghijk_5000-15000": "_bcdefghijk",
}
OTHER_PARTS = ["abc_DEF-123_0_10000", "abc_DEF-123_30000_31000", "Yabc_DEF-123_20000"]
NO_CLIPS = ["abc", "abc_DEF-1234", "abc_DEF-123_x", "xabc_DEF-123", ""]


def test_names_of_files():
    found = {name: match_filename(name, NAMED) for name in (*FILE_NAMES, *OTHER_PARTS, *NO_CLIPS)}
    assert found == {
        **{name: (clip, True) for name, clip in FILE_NAMES.items()},
        **dict.fromkeys(OTHER_PARTS, ("abc_DEF-123", False)),
        **dict.fromkeys(NO_CLIPS, ("", False)),
    }
