"""A finished model on other data: its classifier alone, all of it, and the same from scratch.

    python -m psl_jax.main --config configs/transfer.py --workdir runs/transfer \
        --config.init_from=MODEL --config.data.source_dir=FOLDER

MODEL is a run, an export or a published checkpoint. FOLDER is as for own_data.py, with the splits
full and eval. `probe` trains a new classifier on the frozen network (as the paper's table 5),
`finetuned` everything, `scratch` the same network from random weights. The whole clip is evaluated.
"""

from ml_collections import ConfigDict

from psl_jax import config
from psl_jax.experiments import paper_tables


def get_config() -> ConfigDict:
    result = config.base()
    result.name = "transfer"
    config.set_nested(result, paper_tables.OWN_DATA)
    result.data.train_split = result.data.validation_split = "full"
    result.evaluate.segments = "whole"
    result.experiments = {
        "probe": {"train": {"trainable": "classifier"}},
        "finetuned": {},
        "scratch": {"init_from": ""},
    }
    return result
