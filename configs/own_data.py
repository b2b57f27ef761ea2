"""PSL on a folder of your own recordings: teacher, weak baseline, PSL-10s, PSL-5s, PSL-2s.

    python -m psl_jax.main --config configs/own_data.py --workdir runs/own \
        --config.data.source_dir=FOLDER

FOLDER holds audio files (any rate, channels and length) and a table: filename,onset,offset,label in
seconds, or filename,labels, or those of Raven, Audacity, BirdNET or ELAN. Without a table, folders
are classes. The splits are made, and written to FOLDER/splits.csv, or full.csv, balanced.csv and
eval.csv give them: docs/DATA.md. The teacher is trained on `full`, the students on its labels of
`balanced`, which is `full` unless there is such a split. With `configs/own_data.py:mn04` all start
from EfficientAT's published mn04 (978,679 parameters, of AudioSet), and only a new classifier is
trained, in minutes: for less than about ten hours of recordings.

`configs/own_data.py:unlabelled` trains the students on recordings without labels, by the labels of
any finished teacher (docs/TEACHERS.md), whose classes they take where there is no table:

    python -m psl_jax.main --config configs/own_data.py:unlabelled --workdir runs/unlabelled \
        --config.data.source_dir=FOLDER --config.teacher=mn04

`own_data.py:unlabelled+mn04` starts these students from mn04, too.
"""

from ml_collections import ConfigDict

from psl_jax import config
from psl_jax.experiments import paper_tables
from psl_jax.runtime.errors import UserError


def get_config(start: str = "") -> ConfigDict:
    result = paper_tables.table2("own_data")
    result.name = "own_data"
    words = set(start.split("+")) - {""}
    if words - {"mn04", "unlabelled"}:
        raise UserError(
            f"own_data.py:{start} is unknown: give mn04, unlabelled, unlabelled+mn04, or nothing, "
            "after the :"
        )
    if "mn04" in words:
        config.set_nested(result, config.FROM_MN04)
        # Without augmentation mn04 hears each clip once, and its features are kept in memory.
        del result.experiments.teacher.augment
        # The class queue costs it two points where there is one hour, and gains nothing on more.
        result.experiments.teacher.train.sampling = "uniform"
    if "unlabelled" in words:
        result.name = "own_data_unlabelled"
        result.data.unlabelled, result.data.train_split = True, "unlabelled"
        result.teacher = ""
        del result.experiments["teacher"], result.experiments["weak"]
    return result
