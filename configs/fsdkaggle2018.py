"""A finished model transferred to FSDKaggle2018: its classifier alone, all of it, and from scratch.

    python -m psl_jax.main --config configs/fsdkaggle2018.py --config.data.data_dir=DATA \\
        --config.init_from=MODEL --config.segment_seconds=2

DATA is FSDKaggle2018, prepared. `probe` is the paper's table 5 (PSL-2s: 89.21 mAP@3).
Whole clips are evaluated.
One label a clip: `--config.model.output=softmax` is the other choice of output.
"""

from ml_collections import ConfigDict

from psl_jax.experiments import paper_tables


def get_config() -> ConfigDict:
    return paper_tables.make_transfer_config("fsd2018")
