"""How a training run ends early."""

CURE = "The checkpoints before it are kept: go on from the last with a lower optimiser.learning_rate and resume=anyway"


class Diverged(Exception):
    """The loss is not a number any more; the message names the step and what to try."""


class Interrupted(Exception):
    """A run that was told to stop, and has saved what it did; the message says how to go on."""
