"""How a training run ends early."""

from training.errors import DarkroomError

CURE = "The checkpoints before it are kept: go on from the last with a lower optimiser.learning_rate and resume=anyway"


class Diverged(DarkroomError):
    """The loss is not a number any more; the message names the step and what to try."""


class Interrupted(DarkroomError):
    """A run that was told to stop, and has saved what it did; the message says how to go on."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: run it again
