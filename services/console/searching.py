"""The parameters of a search for images, from a page or the API."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from sqlalchemy import Connection

from services.console.making import MOST_WORDS, Classes
from services.job_queue.gallery import CLASS
from services.job_queue.job_filters import JobFilter
from services.job_queue.recall import Sought
from services.registry import viewing


@dataclass(frozen=True)
class Asked:
    """The fields of a search, empty or None where nothing is asked.

    label: the number or the name of a class. model: as jobs name it, or name@version: all jobs that used it. since,
    until: the first and the last day, in UTC.
    """

    words: str = ""
    label: str = ""
    tag: str = ""
    model: str = ""
    seed: int | None = None
    since: date | None = None
    until: date | None = None

    def sought(self, connection: Connection) -> Sought:
        """Return it as the database is asked."""
        release = viewing.find_reference(connection, self.model) if self.model else None
        is_version = release is not None and self.model == f"{release.name}@{release.version}"
        names = [] if release is None else viewing.find_class_names(connection, release.id, CLASS)
        which = JobFilter(
            tags=[self.tag] if self.tag else [],
            model=None if is_version or not self.model else self.model,
            since=None if self.since is None else _midnight(self.since),
            until=None if self.until is None else _midnight(self.until) + timedelta(1),
        )
        labels = Classes(names).labels_of(self.label)
        words = self.words.split()[:MOST_WORDS]
        return Sought(which, release.id if release is not None and is_version else None, words, labels, self.seed)


def _midnight(day: date) -> datetime:
    """Return the beginning of a day, which leaves room for the next one."""
    return datetime.combine(min(max(day, date(1970, 1, 2)), date(9998, 1, 1)), time(), UTC)
