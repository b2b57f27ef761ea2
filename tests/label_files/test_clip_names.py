import numpy as np
import pytest

from psl_jax.label_files.importing import ClipNames
from psl_jax.runtime.errors import UserError

IDS = ["--PJHxphWEs", "Y123456789a", "123456789ab", "Y23456789ab", "_a-b_c-d_e-", "own.clip_1"]


FOUND = {
    "--PJHxphWEs": "--PJHxphWEs",
    "Y--PJHxphWEs.wav": "--PJHxphWEs",
    "some/folder/Y--PJHxphWEs.flac": "--PJHxphWEs",
    "--PJHxphWEs_30.000_40.000.wav": "--PJHxphWEs",
    "--PJHxphWEs_30000": "--PJHxphWEs",
    "Y_a-b_c-d_e-_0_10000": "_a-b_c-d_e-",
    "Y123456789a": "Y123456789a",  # not the file of a clip "123456789a"
    "Y123456789ab.wav": "123456789ab",
    "Y23456789ab.wav": "Y23456789ab",
    "own.clip_1": "own.clip_1",
    "own.clip_1.wav": "own.clip_1",
}
NOT_FOUND = ["own.clip", "--PJHxphWEs_x", "PJHxphWEs", ""]


def test_names_are_found_exactly():
    for name in (*FOUND, *NOT_FOUND):
        names = ClipNames(np.array(IDS), "file")
        (number,) = names.find([name])
        assert (IDS[number] if number >= 0 else None) == FOUND.get(name), name
        assert names.unknown == (name not in FOUND)


def test_files_of_one_name_in_two_folders_are_not_one_clip():
    ids = np.array(["0600", "n/0700.wav", "s/0700.wav"])
    found = ClipNames(ids, "t.csv").find(["n/0700.wav", "s/0700.wav", "n/0600"])
    assert found.tolist() == [1, 2, 0]
    with pytest.raises(UserError, match=r"t.csv: s/0600.wav and the file of that name in n"):
        ClipNames(ids, "t.csv").find(["n/0600.wav", "0600", "n/0600.wav", "s/0600.wav"])
