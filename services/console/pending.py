"""Sign-ins that a provider has not confirmed yet: a cookie for each, so that several tabs can sign in at once."""

import hmac
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import Response
from itsdangerous import BadSignature, URLSafeTimedSerializer

LASTS_S = 600
MOST = 8  # of a browser; when there are more, the others end
PATH = "/sign-in"
HOME = "/jobs"
LONGEST_PATH = 500


@dataclass(frozen=True)
class Begun:
    """What must come back from the provider, the verifier of PKCE, and the path of the requested page."""

    state: str
    nonce: str
    verifier: str
    to: str


class PendingSignIns:
    """Keeps what has begun in signed cookies of the browser that began it: a code of another browser finds nothing."""

    def __init__(self, secret: str, cookie: str, *, https_only: bool) -> None:
        self._signer = URLSafeTimedSerializer(secret, salt="darkroom-sign-in")
        self._prefix, self._https_only = f"{cookie}-sign-in-", https_only

    def remember(self, request: Request, response: Response, begun: Begun) -> None:
        """Add the cookie to an answer."""
        others = [name for name in request.cookies if name.startswith(self._prefix)]
        if len(others) >= MOST:
            for name in others:
                self._remove(response, name)
        response.set_cookie(
            self._name(begun.state), self._signer.dumps(asdict(begun)), LASTS_S, path=PATH,
            secure=self._https_only, httponly=True, samesite="lax",
        )  # fmt: skip

    def find(self, request: Request, state: str) -> Begun | None:
        """Return what this browser has begun under a state, or None: it is unknown, another browser's, or too old."""
        try:
            begun = Begun(**self._signer.loads(request.cookies.get(self._name(state), ""), LASTS_S))
        except BadSignature:
            return None
        return begun if hmac.compare_digest(begun.state.encode(), state.encode(errors="replace")) else None

    def forget(self, response: Response, state: str) -> None:
        """Remove the cookie: each is used once."""
        self._remove(response, self._name(state))

    def _remove(self, response: Response, name: str) -> None:
        response.delete_cookie(name, PATH, secure=self._https_only, httponly=True, samesite="lax")

    def _name(self, state: str) -> str:
        return self._prefix + "".join(one for one in state[:12] if one.isascii() and one.isalnum())


def local_path(path: str) -> str:
    """Return a path of the console with its query, or the first page's for anything that could lead elsewhere."""
    try:
        parts = urlsplit(path)
    except ValueError:
        return HOME
    is_plain = path.isascii() and path.isprintable() and " " not in path and "\\" not in path
    leads_elsewhere = parts.scheme or parts.netloc or not path.startswith("/") or path.startswith(("//", PATH))
    return HOME if leads_elsewhere or not is_plain or len(path) > LONGEST_PATH else path
