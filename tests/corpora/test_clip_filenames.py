"""Which clip a file is of, by its name."""

import audioset_layouts
import pytest
from audioset_tables import CLASSES, segment
from shared_tables import SHARED, needs_audioset

from psl_jax.corpora import audioset_csv
from psl_jax.corpora.audioset_csv import read_segments

SEGMENTS = {
    s.id: s
    for s in (
        segment("abc_DEF-123", 30.0),
        segment("-a_30000_40", 30.0),
        segment("Yabcdefghij", 0.0, 10.0),
        segment("abcdefghijk", 239.8, 249.8),
        segment("_bcdefghijk", 5.0, 15.0),
    )
}


@pytest.mark.parametrize(
    ("stem", "clip"),
    [
        ("abc_DEF-123", "abc_DEF-123"),
        ("Yabc_DEF-123", "abc_DEF-123"),
        ("abc_DEF-123_30000", "abc_DEF-123"),
        ("abc_DEF-123_30000_40000", "abc_DEF-123"),
        ("abc_DEF-123_30000-40000", "abc_DEF-123"),
        ("Yabc_DEF-123_30000_40000", "abc_DEF-123"),
        ("abc_DEF-123_30.000_40.000", "abc_DEF-123"),
        ("abc_DEF-123_30_40", "abc_DEF-123"),
        ("-a_30000_40", "-a_30000_40"),
        ("-a_30000_40_30000", "-a_30000_40"),
        ("Yabcdefghij", "Yabcdefghij"),
        ("YYabcdefghij", "Yabcdefghij"),
        ("Yabcdefghijk", "abcdefghijk"),
        ("abcdefghijk_239800_249800", "abcdefghijk"),
        ("_bcdefghijk_5000", "_bcdefghijk"),
        ("Y_bcdefghijk_5000-15000", "_bcdefghijk"),
    ],
)
def test_names_of_clips(stem, clip):
    assert audioset_csv.match_filename(stem, SEGMENTS) == (audioset_csv.Match.CLIP, clip)


@pytest.mark.parametrize(
    "stem", ["abc_DEF-123_0_10000", "abc_DEF-123_30000_31000", "Yabc_DEF-123_20000"]
)
def test_names_of_other_parts_of_the_video(stem):
    assert audioset_csv.match_filename(stem, SEGMENTS) == (
        audioset_csv.Match.OTHER_SEGMENT,
        "abc_DEF-123",
    )


@pytest.mark.parametrize("stem", ["abc", "abc_DEF-1234", "abc_DEF-123_x", "xabc_DEF-123", ""])
def test_names_of_no_clip(stem):
    assert audioset_csv.match_filename(stem, SEGMENTS) == (audioset_csv.Match.UNKNOWN, "")


@needs_audioset
@pytest.mark.parametrize("name", ["balanced_train", "eval"])
def test_real_ids_in_file_names(name):
    segments, _ = read_segments(SHARED / f"audioset/{name}_segments.csv", CLASSES)
    by_id = {s.id: s for s in segments}
    for naming in audioset_layouts.NAMINGS:
        found = [
            audioset_csv.match_filename(audioset_layouts.stem(naming, s), by_id) for s in segments
        ]
        assert found == [(audioset_csv.Match.CLIP, s.id) for s in segments]
