"""Where the real tables of the corpora lie, for the tests that read them."""

import os
import pathlib

import places
import pytest

_REPOSITORY = places.ROOT
SHARED = pathlib.Path(os.environ.get("PSL_JAX_SHARED", _REPOSITORY.parent / "shared")) / "data"

needs_audioset = pytest.mark.skipif(
    not (SHARED / "audioset").is_dir(),
    reason="no data/audioset in PSL_JAX_SHARED: needs AudioSet's segment CSVs",
)
needs_fsdkaggle2018 = pytest.mark.skipif(
    not (SHARED / "fsdkaggle2018").is_dir(),
    reason="no data/fsdkaggle2018 in PSL_JAX_SHARED: needs the tables of FSDKaggle2018",
)
