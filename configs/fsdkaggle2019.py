"""A finished model transferred to FSDKaggle2019: its classifier alone, all of it, and from scratch.

    python -m psl_jax.main --config configs/fsdkaggle2019.py --config.data.data_dir=DATA \\
        --config.init_from=MODEL --config.segment_seconds=2     # fsdkaggle2019.py:noisy

DATA is FSDKaggle2019, prepared. `probe` is the paper's table 5 (PSL-2s, curated: 71.86 lwlrap,
noisy: 54.49). Whole clips are evaluated.
"""

from ml_collections import ConfigDict

from psl_jax.experiments import paper_tables
from psl_jax.runtime.errors import UserError


def get_config(clips: str = "curated") -> ConfigDict:
    if clips not in ("curated", "noisy"):
        raise UserError(f"fsdkaggle2019.py:{clips} is unknown: give curated or noisy after the :")
    return paper_tables.make_transfer_config(f"fsd2019_{clips}")
