"""The ways in which a training run ends early."""

from training.errors import DarkroomError

CURE = "Earlier checkpoints are kept: resume from the last with a lower optimiser.learning_rate and resume=anyway"


class Diverged(DarkroomError):
    """The loss or a weight became NaN or infinite; the message names the step and what to try."""


class DiskFullError(DarkroomError):
    """The output could not be written because the disk is full; the last checkpoint is intact."""


class Interrupted(DarkroomError):
    """A signal stopped the run after its state was saved; the message says how to resume."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: run it again
