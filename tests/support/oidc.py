"""An OpenID Connect provider in a process, and one that needs no network and can be told to be wrong."""

import hashlib
import json
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import httpx2
from joserfc import jwt
from joserfc.jwk import RSAKey

from services.console.oidc import Provider

ISSUER, CLIENT, SECRET = "https://sso.example.com/realms/a", "console", "a-client-secret"
BACK = "https://pictures.example.com/sign-in/callback"


class FakeProvider(httpx2.AsyncBaseTransport):
    """claims, header, document: what the next token and the discovery document have besides the usual; None removes.
    Times are in seconds from now.

    Each key takes a tenth of a second, so tests share them.
    """

    keys: ClassVar = [RSAKey.generate_key(2048, {"kid": f"key-{number}", "use": "sig"}) for number in range(2)]

    def __init__(self, **claims: Any) -> None:
        self.claims: dict[str, Any] = claims
        self.header: dict[str, Any] = {}
        self.document: dict[str, Any] = {}
        self.userinfo: dict[str, Any] = {}
        self.key, self.published = self.keys[0], [self.keys[0]]
        self.asked: list[str] = []
        self.status = 200
        self.challenge = self.nonce = self.authorization = ""
        self.form: dict[str, str] = {}

    def provider(self, secret: str | None = SECRET) -> Provider:
        """The console's side."""
        return Provider(ISSUER, CLIENT, secret, ["profile", "groups"], transport=self)

    def authorize(self, url: str) -> None:
        """A browser comes with the address that begins a sign-in."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        self.challenge, self.nonce = asked["code_challenge"], asked["nonce"]

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path.removeprefix("/realms/a")
        self.asked.append(path)
        if self.status != 200:
            return httpx2.Response(self.status, request=request)
        if path == "/token":
            return httpx2.Response(200, json=self._token(request), request=request)
        answers = {
            "/.well-known/openid-configuration": lambda: {
                "issuer": ISSUER,
                **{name: f"{ISSUER}/{name}" for name in ("authorization_endpoint", "userinfo_endpoint", "jwks_uri")},
                "token_endpoint": f"{ISSUER}/token",
                **self.document,
            },
            "/jwks_uri": lambda: {"keys": [key.as_dict(private=False) for key in self.published]},
            "/userinfo_endpoint": lambda: self.userinfo,
        }
        return httpx2.Response(200, json=answers[path](), request=request)

    def _token(self, request: httpx2.Request) -> dict[str, str]:
        self.form = {name: values[0] for name, values in parse_qs(request.content.decode()).items()}
        self.authorization = request.headers.get("authorization", "")
        digest = hashlib.sha256(self.form["code_verifier"].encode()).digest()
        if urlsafe_b64encode(digest).rstrip(b"=").decode() != self.challenge:
            return {"error": "invalid_grant"}
        now = int(time.time())
        usual = {"iss": ISSUER, "aud": CLIENT, "sub": "1", "iat": 0, "exp": 300, "nonce": self.nonce}
        claims = {name: value for name, value in {**usual, **self.claims}.items() if value is not None}
        claims |= {name: now + claims[name] for name in ("iat", "exp", "nbf") if name in claims}
        return {"access_token": "access", "token_type": "Bearer", "id_token": self._sign(claims)}

    def _sign(self, claims: dict[str, Any]) -> str:
        header = {"alg": "RS256", "kid": self.key.kid, **self.header}
        if header["alg"] == "RS256":
            return jwt.encode(header, claims, self.key)
        parts = (json.dumps(part).encode() for part in (header, claims))
        signature = b"" if header["alg"] == "none" else self.key.as_pem(private=False)
        return ".".join(urlsafe_b64encode(part).rstrip(b"=").decode() for part in (*parts, signature))


async def sign_in(fake: FakeProvider, provider: Provider, **wrong: str) -> dict[str, Any]:
    """A whole sign-in, as the pages do it. wrong: arguments of the second half that differ."""
    begun = await provider.begin(BACK)
    fake.authorize(begun["url"])
    right = {"code": "a", "verifier": begun["code_verifier"], "nonce": begun["nonce"], "redirect_uri": BACK}
    return dict(await provider.finish(**{**right, **wrong}, wanted=["groups"]))


@contextmanager
def running_provider(port: int, *people: dict[str, Any]) -> Iterator[str]:
    """A provider in a process of its own: `oidc-provider-mock`. Yields its issuer. people: claims of whom it knows."""
    users = [word for person in people for word in ("--user-claims", json.dumps(person))]
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "oidc_provider_mock",
        "--port",
        str(port),
        "--require-nonce",
        "true",
    ]
    process = subprocess.Popen([*command, *users], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    issuer = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            try:
                httpx2.get(f"{issuer}/jwks").raise_for_status()
                break
            except httpx2.HTTPError:
                time.sleep(0.1)
        else:
            raise AssertionError("oidc-provider-mock does not answer")
        yield issuer
    finally:
        process.terminate()
        process.wait()
