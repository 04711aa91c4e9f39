"""What may never happen: an image lost or settled twice, or a write under a lease that was taken away."""

from services.job_queue.states import TERMINAL, JobState
from tests.model.rules import Rules
from tests.model.state import FAILED, MISSING, State, Step


def find_violation(rules: Rules, before: State, step: Step, after: State) -> str | None:
    """Return what is wrong with a step, or None."""
    old, new = before.job, after.job
    seen, left = ((one.job.images, one.job.made, one.pieces, one.job.state) for one in (before, after))
    if step.is_stale and seen != left:
        return "a zombie has written: its lease was taken from it"
    if new is old:
        return None
    if new.manifest < old.manifest:
        return f"an image is lost: the manifest of revision {old.manifest} is replaced by that of {new.manifest}"
    for index, (was, present) in enumerate(zip(old.images, new.images, strict=True)):
        if was not in (MISSING, FAILED) and was != present:
            return f"image {index} is lost: it was stored"
    for index, made in enumerate(old.made):
        is_stored = old.images[index] == MISSING and new.images[index] not in (MISSING, FAILED)
        if (is_stored and int(made) < rules.stages - 1) or int(new.made[index]) > int(made) + 1:
            return f"image {index} is made of nothing: the stage before has not made it"
    stored = len(new.images) - new.images.count(FAILED) - new.images.count(MISSING)
    if (new.succeeded, new.failed) != (stored, new.images.count(FAILED)):
        return "an image is settled twice"
    if old.has_manifest and old.manifest == new.manifest and old.listed != new.listed:
        return f"an image is lost to readers: the listings of revision {new.manifest} change under their manifest"
    if step.words.endswith("was not made") and not (old.is_overdue or old.gave_up):
        return "an image is lost: its job goes on, and it fails without having been tried"
    if not (rules.has_losses or rules.has_errors or rules.has_stops) and (
        new.failed or new.state in (JobState.FAILED, JobState.PARTIAL)
    ):
        return "an image is lost: it fails, although nothing has failed"
    if new.state in TERMINAL and old.state not in TERMINAL and new.is_planned:
        return _find_wrong_end(after)
    return None


def _find_wrong_end(state: State) -> str | None:
    job = state.job
    if state.pieces:
        return "the job has ended, and work of it is open"
    if MISSING in job.images and job.state != JobState.CANCELLED and not job.gave_up:
        return "an image is lost: the job has ended without it"
    if job.has_manifest and job.manifest == job.revision:
        for index, (image, listed) in enumerate(zip(job.images, job.listed, strict=True)):
            if (image in (MISSING, FAILED)) != (listed == MISSING):
                return f"image {index} is lost: the manifest does not name it"
    return None
