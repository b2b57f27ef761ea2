"""How a network is trained."""

import dataclasses

from psl_jax.runtime.settings import operational, setting


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """config.train: how a network is trained. The defaults are the paper's for a student."""

    batch_size: int = setting(
        32,
        least=0,
        help="Segments per step, over all devices; 0: a 16th of the training segments, as a power "
        "of 2 from 4 to 32",
    )
    learning_rate: float = setting(
        1e-4, above=0, help="Learning rate of Adam at the first step; the published code: 1e-3"
    )
    backbone_learning_rate: float = setting(
        0.0,
        least=0,
        help="Learning rate of all but the classifier at the first step, for networks that start "
        "from weights; 0: that of the classifier",
    )
    trainable: str = setting(
        "all",
        choices=("all", "classifier"),
        help="What is trained: the whole network, or its classifier alone, while the rest and its "
        "BatchNorm statistics stay frozen",
    )
    schedule: str = setting(
        "constant",
        choices=("constant", "polynomial"),
        help="Course of the learning rate: constant, or a polynomial that falls to 0 at the last "
        "step",
    )
    decay_power: float = setting(
        2.0, above=0, help="Exponent of the polynomial schedule; inferred, the paper names none"
    )
    epochs: int = setting(300, least=1, help="Most passes over the training split")
    max_steps: int = setting(
        0,
        least=0,
        help="Number of training steps, instead of epochs and min_steps; 0: those decide",
    )
    min_steps: int = setting(
        0, least=0, help="Fewest training steps: a small set gets more epochs until they make these"
    )
    sampling: str = setting(
        "uniform",
        choices=("uniform", "balanced", "weighted"),
        help="How segments are drawn: each once per epoch (uniform), classes in turn (balanced), "
        "or rare classes more often (weighted)",
    )
    validate_every: int = setting(
        10_000, least=1, help="Steps between validations, or one epoch where that is shorter"
    )
    checkpoint_every: int = operational(
        2_000, least=1, help="Steps between checkpoints; each validation also writes one"
    )
    checkpoint_minutes: float = operational(
        10.0,
        least=0,
        help="Most minutes between checkpoints; 0: checkpoint_every alone decides",
    )
    log_every: int = operational(20, least=1, help="Steps between lines of train_log.jsonl")
    loggers: str = operational(
        "tensorboard",
        help="Where measurements go besides train_log.jsonl: names separated by commas, of "
        "tensorboard, wandb, trackio and mlflow; empty: nowhere",
    )
    patience: int = setting(
        15,
        least=0,
        help="Epochs without a better mAP that end the training, at least a quarter of min_steps; "
        "0: no early stop",
    )
    best_checkpoints: int = setting(
        4,
        least=1,
        help="Number of checkpoints, of the highest validation mAP, whose mean is the final model; "
        "the published code: 1",
    )

    @property
    def backbone_factor(self) -> float:
        """By which the learning rate of all but the classifier differs from the classifier's."""
        return (self.backbone_learning_rate or self.learning_rate) / self.learning_rate
