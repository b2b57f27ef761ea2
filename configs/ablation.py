"""Beyond the paper: PSL-2s with soft labels that are made in other ways.

    python -m psl_jax.main --config configs/ablation.py:soundscapes --seeds 0,1,2
    python -m psl_jax.main --config configs/ablation.py:own_data --config.data.source_dir=FOLDER
    python -m psl_jax.main --config configs/ablation.py --config.teacher=published.pt ...

Against PSL-2s: overlapping windows averaged, the clip's weak labels as a prior, only the likeliest
classes kept, and a second and third round in which the student is the teacher. The second table
has how good each experiment's labels are and what they take on disk. docs/DATA.md describes the
settings.
"""

from psl_jax.experiments import paper


def get_config(data: str = "audioset"):
    return paper.ablation(data)
