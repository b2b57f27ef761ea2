"""New classifiers on EfficientAT's published mn04: weak labels, PSL-10s, PSL-5s and PSL-2s.

    python -m psl_jax.main --config configs/mn.py --workdir runs/mn \
        --config.data.source_dir=FOLDER --config.teacher=runs/teacher

FOLDER is as configs/own_data.py takes it. The weights (4 MB, MIT licence) are downloaded once.
--config.init_from= --config.train.trainable=all trains the same network from random weights.
"""

from ml_collections import ConfigDict

from psl_jax import config
from psl_jax.experiments import paper_tables


def get_config() -> ConfigDict:
    result = config.base()
    result.name = "mn"
    result.teacher = "runs/teacher"
    config.set_nested(result, paper_tables.OWN_DATA)
    config.set_nested(result, config.FROM_MN04)
    result.experiments.weak = {"labels": "weak"}
    for name, seconds in config.STUDENTS.items():
        result.experiments[name] = {"labels": "soft", "segment_seconds": seconds}
    return result
