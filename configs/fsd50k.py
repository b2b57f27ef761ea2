"""A finished model transferred to FSD50K: its classifier alone, all of it, and from scratch.

    python -m psl_jax.main --config configs/fsd50k.py --config.data.data_dir=DATA \\
        --config.init_from=MODEL --config.segment_seconds=2

DATA is FSD50K, prepared. `probe` is the paper's table 5 (PSL-2s: 54.23 mAP).
Whole clips are evaluated.
"""

from ml_collections import ConfigDict

from psl_jax.experiments import paper_tables


def get_config() -> ConfigDict:
    return paper_tables.make_transfer_config("fsd50k")
