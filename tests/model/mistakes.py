"""Seeded mistakes: the rules with one guard taken away. Each must be found, or the model proves nothing."""

from tests.model.rules import Rules
from tests.model.state import Job, Piece, State


class MissingFence(Rules):
    """A write looks for the row of the work, and not for the token of the lease."""

    def is_held(self, piece: Piece | None, is_stale: bool) -> bool:
        return super().is_held(piece, is_stale=False)


class RescueByElapsedTime(Rules):
    """Work that takes long is taken from its process, although that is alive."""

    def is_lost(self, state: State, piece: Piece) -> bool:
        return True


class EarlyFinalizing(Rules):
    """A job is finalized once it is planned, before its last image is settled."""

    def may_finalize(self, state: State) -> bool:
        return True


class ForgottenRevision(Rules):
    """A retry goes on in the revision that has ended."""

    def next_revision(self, job: Job) -> int:
        return job.revision


class UnconditionalManifest(Rules):
    """A manifest replaces whatever is there."""

    def may_store_manifest(self, job: Job, lease: Piece) -> bool:
        return True


class EarlyStage(Rules):
    """A shard goes on to its next stage once one of its images is made."""

    def may_go_on(self, job: Job, piece: Piece) -> bool:
        return any(not self.is_due(job, piece, index) for index in range(piece.start, piece.stop))


# Each with a size at which it is found in a second or two.
MISTAKES: tuple[Rules, ...] = (
    MissingFence(images=1),
    RescueByElapsedTime(images=1, has_losses=False, has_errors=False, has_stops=False),
    EarlyFinalizing(images=1),
    ForgottenRevision(images=1, has_errors=False, max_attempts=1),
    UnconditionalManifest(images=1, has_errors=False, has_stops=False, max_attempts=1),
    EarlyStage(stages=2, processes=1, has_losses=False, has_errors=False, has_stops=False),
)
