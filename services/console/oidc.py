"""Signing in at an OpenID Connect provider, by Authlib: an authorization code with PKCE, a state and a nonce.

The identity token must be signed by a key of the provider's JWKS with an asymmetric algorithm, and name its issuer, the
console as its audience, the nonce of this sign-in, and a time that has not come.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx2
from authlib.integrations.starlette_client import OAuthError, StarletteOAuth2App
from joserfc.errors import JoseError

from services.console.viewer import ProviderAway, SignInRefused
from services.console_settings import is_protected

log = logging.getLogger("darkroom.console")

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
NEEDED = ("authorization_endpoint", "token_endpoint", "jwks_uri")
OPTIONAL = ("userinfo_endpoint", "end_session_endpoint")
FRESH_S, RETRY_S = 3600, 60  # of the discovery document; after a failure the old one serves for another minute
SKEW_S = 60  # by which the clocks may differ
TIMEOUT_S = 10.0
BASIC, POST = "client_secret_basic", "client_secret_post"
LONGEST = 300  # characters of a reason


class Provider:
    """The provider of the settings, and its discovery document.

    transport: an httpx transport to use instead of the network.
    """

    def __init__(
        self,
        issuer: str,
        client_id: str,
        client_secret: str | None,
        scopes: Sequence[str],
        *,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self.issuer, self._client_id, self._has_secret = issuer, client_id, client_secret is not None
        options: dict[str, Any] = {"timeout": TIMEOUT_S, "verify": httpx2.create_ssl_context()}
        if transport is not None:
            options["transport"] = transport
        self._http = options
        self._read_at = 0.0
        self._client = StarletteOAuth2App(
            None,
            "oidc",
            client_id=client_id,
            client_secret=client_secret,
            client_kwargs={
                **options,
                "scope": " ".join(dict.fromkeys(["openid", *scopes])),
                "code_challenge_method": "S256",
            },
        )

    @property
    def name(self) -> str:
        """The provider's host, for people."""
        return urlsplit(self.issuer).hostname or self.issuer

    async def begin(self, redirect_uri: str) -> Mapping[str, str]:
        """Return the `url` that begins a sign-in, with its `state`, `nonce` and `code_verifier`."""
        await self._refresh()
        begun: Mapping[str, str] = await self._client.create_authorization_url(redirect_uri)
        return begun

    async def finish(
        self, *, code: str, verifier: str, nonce: str, redirect_uri: str, wanted: Sequence[str]
    ) -> Mapping[str, Any]:
        """Exchange a code, and return the claims of the identity token once it is verified.

        wanted: claims that are asked of the provider's userinfo if the token lacks them. Raises ProviderAway and
        SignInRefused.
        """
        await self._refresh()
        try:
            token = await self._client.fetch_access_token(redirect_uri, code=code, code_verifier=verifier)
            claims = await self._verify(token, nonce)
            if any(name not in claims for name in wanted) and "userinfo_endpoint" in self._client.server_metadata:
                more = await self._client.userinfo(token=token)
                if more.get("sub") != claims["sub"]:
                    raise SignInRefused(f"The userinfo of {self.name} belongs to another user.")
                claims = {**more, **claims}
        except OAuthError as error:
            log.warning("%s refused the authorization code: %s", self.name, _printable(str(error)))
            raise SignInRefused(f"{self.name} refused the sign-in: {_printable(str(error.error))}.") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            raise self._away(error) from None
        return claims

    async def end_session(self) -> str | None:
        """Return the address at which people sign out of the provider, None if there is none, or it is away."""
        try:
            await self._refresh()
        except ProviderAway:
            return None
        address = self._client.server_metadata.get("end_session_endpoint")
        return address and f"{address}{'&' if '?' in address else '?'}{urlencode({'client_id': self._client_id})}"

    async def _verify(self, token: Mapping[str, Any], nonce: str) -> dict[str, Any]:
        expected = {
            "iss": {"essential": True, "value": self.issuer},
            "aud": {"essential": True, "value": self._client_id},
        }
        try:
            claims = await self._client.parse_id_token(token, nonce, claims_options=expected, leeway=SKEW_S)
        except (JoseError, ValueError, KeyError, TypeError) as error:
            why = getattr(error, "description", None) or getattr(error, "error", None) or type(error).__name__
            log.warning("the ID token of %s is invalid: %s", self.name, _printable(str(why)))
            raise SignInRefused(f"The identity token of {self.name} was refused: {_printable(str(why))}.") from None
        if claims is None:
            raise SignInRefused(f"{self.name} sent no identity token. Does the client have the scope openid?")
        return dict(claims)

    async def _refresh(self) -> None:
        """Read the discovery document if there is none, or an old one. Raises ProviderAway if there is none."""
        client, now = self._client, time.monotonic()
        if client.server_metadata and now - self._read_at < FRESH_S:
            return
        try:
            async with httpx2.AsyncClient(**self._http) as http:
                answer = await http.get(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
            answer.raise_for_status()
            found = self._check(answer.json())
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            if not client.server_metadata:
                raise self._away(error) from None
            log.warning(
                "the discovery document of %s could not be reloaded; the old one is used: %s",
                self.name,
                _printable(str(error)),
            )
            self._read_at = now - FRESH_S + RETRY_S
            return
        # It replaces the keys, too. `_loaded_at` tells Authlib that there is nothing to load.
        client.server_metadata, self._read_at = {**found, "_loaded_at": time.time()}, now

    def _check(self, document: Any) -> dict[str, Any]:
        """Return what is used of a discovery document: Authlib would take any of its fields as an option of a client.

        Raises ValueError.
        """
        if not isinstance(document, dict) or document.get("issuer") != self.issuer:
            raise ValueError(f"it does not name the issuer {self.issuer}, exactly as DARKROOM_CONSOLE_OIDC_ISSUER does")
        found = {name: document[name] for name in (*NEEDED, *OPTIONAL) if document.get(name) is not None}
        for name in NEEDED:
            if name not in found:
                raise ValueError(f"it has no {name}")
        for name, url in found.items():
            if not isinstance(url, str) or not is_protected(url):
                raise ValueError(f"{name} is no https URL")
        offered = document.get("id_token_signing_alg_values_supported") or ["RS256"]
        algorithms = [name for name in ALGORITHMS if name in offered]
        if not algorithms:
            raise ValueError(f"it signs with none of {', '.join(ALGORITHMS)}")
        ways = document.get("token_endpoint_auth_methods_supported") or [BASIC]
        way = "none" if not self._has_secret else POST if POST in ways and BASIC not in ways else BASIC
        return {
            **found,
            "id_token_signing_alg_values_supported": algorithms,
            "token_endpoint_auth_method": way,
        }

    def _away(self, error: Exception) -> ProviderAway:
        log.error(
            "the identity provider %s is unavailable: %s", self.name, _printable(f"{type(error).__name__}: {error}")
        )
        return ProviderAway(f"{self.name}, where people sign in, does not answer as it should. The log says why.")


def _printable(text: str) -> str:
    return ascii(text[:LONGEST])[1:-1]
