"""Which clip a file is of, by its name."""

import pytest
from audioset_tables import segment

from psl_jax.corpora.audioset import match_filename

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
        ("abc_DEF-123_30000-40000", "abc_DEF-123"),
        ("Yabc_DEF-123_30000_40000", "abc_DEF-123"),
        ("abc_DEF-123_30.000_40.000", "abc_DEF-123"),
        ("-a_30000_40", "-a_30000_40"),
        ("-a_30000_40_30000", "-a_30000_40"),
        ("Yabcdefghij", "Yabcdefghij"),
        ("Yabcdefghijk", "abcdefghijk"),
        ("abcdefghijk_239800_249800", "abcdefghijk"),
        ("Y_bcdefghijk_5000-15000", "_bcdefghijk"),
    ],
)
def test_names_of_clips(stem, clip):
    assert match_filename(stem, SEGMENTS) == (clip, True)


@pytest.mark.parametrize(
    "stem", ["abc_DEF-123_0_10000", "abc_DEF-123_30000_31000", "Yabc_DEF-123_20000"]
)
def test_names_of_other_parts_of_the_video(stem):
    assert match_filename(stem, SEGMENTS) == ("abc_DEF-123", False)


@pytest.mark.parametrize("stem", ["abc", "abc_DEF-1234", "abc_DEF-123_x", "xabc_DEF-123", ""])
def test_names_of_no_clip(stem):
    assert match_filename(stem, SEGMENTS) == ("", False)
