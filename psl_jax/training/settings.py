"""How a network is trained."""

import dataclasses

from psl_jax.runtime.settings import operational, setting


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """config.train. The defaults are the paper's for a student."""

    batch_size: int = setting(32, least=0)  # 0: 4 to 32, by the size of the set
    learning_rate: float = setting(1e-4, above=0)  # the published code: 1e-3
    # all | classifier: the rest is frozen, BatchNorms with their running statistics; its features
    # are computed once and kept in memory where they fit and nothing augments the audio
    trainable: str = setting("all", choices=("all", "classifier"))
    # constant | polynomial (to 0 over all steps)
    schedule: str = setting("constant", choices=("constant", "polynomial"))
    decay_power: float = setting(2.0, above=0)  # inferred
    epochs: int = setting(300, least=1)
    max_steps: int = setting(0, least=0)  # 0: as many as the epochs make
    min_steps: int = setting(0, least=0)  # more epochs where they make fewer: for small sets
    # uniform | balanced (class queue) | weighted
    sampling: str = setting("uniform", choices=("uniform", "balanced", "weighted"))
    validate_every: int = setting(10_000, least=1)  # steps, or an epoch if that is shorter
    checkpoint_every: int = operational(2_000, least=1)  # steps; besides, one at each validation
    checkpoint_minutes: float = operational(10.0, least=0)  # besides; 0: by steps alone
    log_every: int = operational(20, least=1)
    patience: int = setting(15, least=0)  # epochs without a better mAP; 0: no early stop
    best_checkpoints: int = setting(4, least=1)  # averaged in the end; the published code: 1
