"""FSDKaggle2019 (Zenodo record 3612637): 80 classes, several labels a clip, 44.1 kHz."""

import pathlib
from typing import ClassVar

from psl_jax.corpora.freesound import FreesoundCorpus, SplitTable, read_vocabulary
from psl_jax.runtime.csv_files import find_tables

_WRONG_LABEL = "known to have a wrong label"


class FsdKaggle2019(FreesoundCorpus):
    """The official splits: train_curated (4,970 clips), train_noisy (19,815) and test (4,481)."""

    name = "fsdkaggle2019"
    tables: ClassVar = {
        "train_curated": SplitTable(
            ("train_curated_post_competition.csv",),
            ("FSDKaggle2019.audio_train_curated", "audio_train_curated"),
            "labels",
        ),
        "train_noisy": SplitTable(
            ("train_noisy_post_competition.csv",),
            ("FSDKaggle2019.audio_train_noisy", "audio_train_noisy"),
            "labels",
        ),
        "test": SplitTable(
            ("test_post_competition.csv",), ("FSDKaggle2019.audio_test", "audio_test"), "labels"
        ),
    }
    known_bad: ClassVar = {
        "f76181c4": _WRONG_LABEL,
        "77b925c2": _WRONG_LABEL,
        "6a1f682a": _WRONG_LABEL,
        "c7db12aa": _WRONG_LABEL,
        "7752cc8a": _WRONG_LABEL,
        "1d44b0bd": "known to be silent",
    }

    def _read_classes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        if found := find_tables(pathlib.Path(self.source_dir), "vocabulary.csv"):
            return read_vocabulary(found[0])
        return super()._read_classes()
