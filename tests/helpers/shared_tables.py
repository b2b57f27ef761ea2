"""Where real tables and recordings lie, for the tests that read them.

By default in ../shared, beside the repository; PSL_JAX_SHARED names another folder, and
PSL_AUDIO_DIR any folder of recordings.
"""

import os
import pathlib

import places
import pytest

SHARED = pathlib.Path(os.environ.get("PSL_JAX_SHARED", places.SHARED)) / "data"
ESC50 = SHARED / "esc50_16k"
TEACHERS = SHARED / "teachers"
RECORDINGS = pathlib.Path(os.environ.get("PSL_AUDIO_DIR", ESC50))

needs_audioset = pytest.mark.skipif(
    not (SHARED / "audioset").is_dir(),
    reason="no data/audioset in PSL_JAX_SHARED: needs AudioSet's segment CSVs",
)
needs_teachers = pytest.mark.skipif(
    not TEACHERS.is_dir(),
    reason="no data/teachers in PSL_JAX_SHARED: needs published weights of EfficientAT and YAMNet",
)
needs_recordings = pytest.mark.skipif(
    not RECORDINGS.is_dir(),
    reason="no recordings: give a folder of them in PSL_AUDIO_DIR, or PSL_JAX_SHARED",
)
