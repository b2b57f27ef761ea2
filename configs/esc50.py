"""A finished model transferred to ESC-50: its classifier alone, all of it, and from scratch.

    python -m psl_jax.main --config configs/esc50.py --folds=all --config.init_from=MODEL \\
        --config.data.source_dir=FOLDER

FOLDER is ESC-50 as published (2,000 clips of 5 s, 50 classes). --folds=all evaluates each of its
five folds with what is trained on the others, and tells the means; --folds=1,2 just two of them.
One label a clip: `--config.model.output=softmax` is the other choice of output.
"""

from ml_collections import ConfigDict

from psl_jax.experiments import paper_tables


def get_config() -> ConfigDict:
    return paper_tables.make_fold_config("esc50", 5.0)
