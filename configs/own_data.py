"""PSL on a folder of your own recordings: teacher, weak baseline, PSL-10s, PSL-5s, PSL-2s.

    python -m psl_jax.main --config configs/own_data.py --workdir runs/own \
        --config.data.source_dir=FOLDER

FOLDER holds audio files (wav, flac, ogg, mp3; any rate and channels) and, for each of the splits
full, balanced and eval, a SPLIT.csv with the columns filename,labels (";" between labels), and
optionally SPLIT_events.csv (filename,onset,offset,label) and classes.csv. The teacher is trained on
`full`, the students on the teacher's labels of `balanced`.
"""

from ml_collections import ConfigDict

from psl_jax import config
from psl_jax.experiments import paper_tables


def get_config() -> ConfigDict:
    result = config.base()
    result.name = "own_data"
    config.apply(result, paper_tables.OWN_DATA)
    result.experiments = config.paper_suite()
    return result
