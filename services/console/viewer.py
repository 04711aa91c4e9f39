"""The viewer of a page, from a session cookie that the console signs; a request cannot choose another tenant."""

from dataclasses import asdict, dataclass
from typing import Any, Self

from fastapi import Request

SESSION = "viewer"


class NotSignedIn(Exception):
    """The request has no valid session; the message says how to get one."""


class SignInRefused(Exception):
    """A sign-in at the identity provider has failed; the message says why. It may be begun again."""


class ProviderAway(Exception):
    """The identity provider does not answer, or not as it should."""


@dataclass(frozen=True)
class Viewer:
    """A person: a name to show, the tenant whose jobs they see, and whether they operate the service."""

    name: str
    tenant: str
    is_operator: bool = False

    def remember(self, request: Request) -> None:
        """Begin a new session of this viewer."""
        request.session.clear()
        request.session[SESSION] = asdict(self)

    @classmethod
    def of(cls, request: Request) -> Self:
        """Return the viewer of a session. Raises NotSignedIn."""
        known: dict[str, Any] | None = request.session.get(SESSION)
        if known is None:
            raise NotSignedIn("Open the link that `darkroom console` has printed.")
        return cls(**known)
