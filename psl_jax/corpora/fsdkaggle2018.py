"""FSDKaggle2018 (Zenodo record 2552860): 41 classes, one label a clip, 44.1 kHz."""

from typing import ClassVar

from psl_jax.corpora.freesound import FreesoundCorpus, SplitTable


def _is_scored(row: dict[str, str]) -> bool:
    """The full test table also lists 7,800 clips that fill it up and have no label."""
    return row.get("usage") != "Ignored"


class FsdKaggle2018(FreesoundCorpus):
    """The official splits, as after the competition: train (9,473 clips) and test (1,600)."""

    name = "fsdkaggle2018"
    tables: ClassVar = {
        "train": SplitTable(
            ("train_post_competition.csv",),
            ("FSDKaggle2018.audio_train", "audio_train"),
            "label",
        ),
        "test": SplitTable(
            ("test_post_competition_scoring_clips.csv", "test_post_competition.csv"),
            ("FSDKaggle2018.audio_test", "audio_test"),
            "label",
            _is_scored,
        ),
    }
