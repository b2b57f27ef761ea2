import numpy as np
import pytest

from psl_jax.label_files.importing import ClipNames

IDS = ["--PJHxphWEs", "Y123456789a", "123456789ab", "Y23456789ab", "_a-b_c-d_e-", "own.clip_1"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("--PJHxphWEs", "--PJHxphWEs"),
        ("Y--PJHxphWEs.wav", "--PJHxphWEs"),
        ("some/folder/Y--PJHxphWEs.flac", "--PJHxphWEs"),
        ("--PJHxphWEs_30.000_40.000.wav", "--PJHxphWEs"),
        ("--PJHxphWEs_30000", "--PJHxphWEs"),
        ("Y_a-b_c-d_e-_0_10000", "_a-b_c-d_e-"),
        ("Y123456789a", "Y123456789a"),  # not the file of a clip "123456789a"
        ("Y123456789ab.wav", "123456789ab"),
        ("Y23456789ab.wav", "Y23456789ab"),
        ("own.clip_1", "own.clip_1"),
        ("own.clip_1.wav", "own.clip_1"),
        ("own.clip", None),
        ("--PJHxphWEs_x", None),
        ("PJHxphWEs", None),
        ("", None),
    ],
)
def test_names_are_found_exactly(name, found):
    names = ClipNames(np.array(IDS))
    (number,) = names.find([name])
    assert (IDS[number] if number >= 0 else None) == found
    assert names.unknown == (found is None)
