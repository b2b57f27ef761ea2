"""A finished model transferred to UrbanSound8K: its classifier alone, all of it, and from scratch.

    python -m psl_jax.main --config configs/urbansound8k.py --folds=all --config.init_from=MODEL \\
        --config.data.source_dir=FOLDER

FOLDER is UrbanSound8K as published (8,732 clips of up to 4 s, 10 classes). --folds=all evaluates
each of its ten folds with what is trained on the others, and tells the means; --folds=1,2 just two.
One label a clip: `--config.model.output=softmax` is the other choice of output.
"""

from ml_collections import ConfigDict

from psl_jax.experiments import paper_tables


def get_config() -> ConfigDict:
    return paper_tables.make_fold_config("urbansound8k", 4.0)
