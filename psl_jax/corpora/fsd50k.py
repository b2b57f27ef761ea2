"""FSD50K (Zenodo record 4060432): 200 classes, clips of 0.3 to 30 s at 44.1 kHz."""

import pathlib
from typing import ClassVar

from psl_jax.corpora.freesound import FreesoundCorpus, SplitTable, read_vocabulary
from psl_jax.runtime.csv_files import find_tables
from psl_jax.runtime.errors import UserError

_DEV = ("FSD50K.dev_audio", "dev_audio")
_EVAL = ("FSD50K.eval_audio", "eval_audio")


class Fsd50k(FreesoundCorpus):
    """The official splits: train and val (of the development set), and eval."""

    name = "fsd50k"
    tables: ClassVar = {
        "train": SplitTable(
            ("dev.csv",), _DEV, "labels", lambda row: row["split"] == "train", ("split",)
        ),
        "val": SplitTable(
            ("dev.csv",), _DEV, "labels", lambda row: row["split"] == "val", ("split",)
        ),
        "eval": SplitTable(("eval.csv",), _EVAL, "labels"),
    }

    def _read_classes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        found = find_tables(pathlib.Path(self.source_dir), "vocabulary.csv")
        if not found:
            raise UserError(
                f"no vocabulary.csv in {self.source_dir} or a folder in it: expected that of "
                "FSD50K.ground_truth, with lines index,label,mid"
            )
        return read_vocabulary(found[0])
