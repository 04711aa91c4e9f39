"""Identity tokens that are refused, keys that change, and what claims say about a person."""

import asyncio
import logging
from typing import Any

import httpx2
import pytest
from fastapi import HTTPException

from services.console import oidc
from services.console.claims import find_claim, viewer_of
from services.console.directory import Directory
from services.console.parts import Oidc
from services.console.pending import local_path
from services.console.viewer import ProviderAway, SignInRefused, Viewer
from services.console_settings import load_console
from services.settings import SettingsError
from tests.support.oidc import BACK, CLIENT, ISSUER, SECRET, FakeProvider, sign_in

BASIC = {
    "DARKROOM_DATABASE_URL": "postgresql://a:b@h/d",
    "DARKROOM_S3_BUCKET": "b",
    "DARKROOM_ROOT": "/nowhere",
    "DARKROOM_CONSOLE_OIDC_ISSUER": ISSUER,
    "DARKROOM_CONSOLE_OIDC_CLIENT_ID": CLIENT,
    "DARKROOM_CONSOLE_OIDC_CLIENT_SECRET": SECRET,
    "DARKROOM_CONSOLE_TENANTS": '{"team-a": "shop"}',
}


def test_a_code_is_exchanged_with_its_verifier_and_the_secret_in_a_header() -> None:
    fake = FakeProvider(groups=["team-a"])
    claims = asyncio.run(sign_in(fake, fake.provider()))
    assert (claims["sub"], claims["groups"]) == ("1", ["team-a"])
    assert fake.authorization.startswith("Basic ")
    assert (fake.form["redirect_uri"], SECRET in str(fake.form)) == (BACK, False)


def test_a_public_client_sends_no_secret() -> None:
    fake = FakeProvider(groups=[])
    asyncio.run(sign_in(fake, fake.provider(secret=None)))
    assert (fake.authorization, fake.form["client_id"]) == ("", CLIENT)


@pytest.mark.parametrize(
    ("claims", "header", "words"),
    [
        ({"nonce": "another"}, {}, "nonce"),
        ({"nonce": None}, {}, "nonce"),
        ({"aud": "another"}, {}, "aud"),
        ({"aud": ["another"], "azp": CLIENT}, {}, "aud"),
        ({"iss": "https://evil.example"}, {}, "iss"),
        ({"exp": -120}, {}, "expired"),
        ({"exp": None}, {}, "exp"),
        ({"iat": 3600}, {}, "future"),
        ({"nbf": 3600}, {}, "not yet valid"),
        ({"sub": None}, {}, "sub"),
        ({}, {"alg": "none"}, "none"),
        ({}, {"alg": "HS256"}, "HS256"),
        ({}, {"kid": "unknown"}, "unknown"),
    ],
)
def test_wrong_tokens_are_refused(claims: dict[str, Any], header: dict[str, Any], words: str) -> None:
    fake = FakeProvider(groups=[], **claims)
    fake.header = header
    with pytest.raises(SignInRefused, match=rf"(?i)identity token of sso.example.com was refused: .*{words}"):
        asyncio.run(sign_in(fake, fake.provider()))


@pytest.mark.parametrize("claims", [{"exp": -20}, {"nbf": 20}, {"iat": 20}, {"aud": ["a", CLIENT], "azp": CLIENT}])
def test_clocks_may_differ_a_little_and_audiences_may_be_several(claims: dict[str, Any]) -> None:
    fake = FakeProvider(groups=[], **claims)
    assert asyncio.run(sign_in(fake, fake.provider()))["sub"] == "1"


def test_algorithms_that_a_provider_offers_are_limited() -> None:
    """Else a provider that offers HS256 would let its public key sign."""
    fake = FakeProvider(groups=[])
    fake.document = {"id_token_signing_alg_values_supported": ["HS256", "none", "RS256"]}
    for algorithm in ("none", "HS256"):
        fake.header = {"alg": algorithm}
        with pytest.raises(SignInRefused, match="was refused"):
            asyncio.run(sign_in(fake, fake.provider()))
    fake.document = {"id_token_signing_alg_values_supported": ["HS256"]}
    with pytest.raises(ProviderAway):
        asyncio.run(sign_in(fake, fake.provider()))


def test_a_new_key_is_fetched_and_a_removed_one_counts_no_more() -> None:
    fake = FakeProvider(groups=[])
    provider = fake.provider()
    old, new = fake.keys
    asyncio.run(sign_in(fake, provider))
    asyncio.run(sign_in(fake, provider))
    assert (fake.asked.count("/jwks_uri"), fake.asked.count("/.well-known/openid-configuration")) == (1, 1)
    fake.key, fake.published = new, [new]
    asyncio.run(sign_in(fake, provider))
    assert fake.asked.count("/jwks_uri") == 2
    fake.key = old
    with pytest.raises(SignInRefused, match="key-0"):
        asyncio.run(sign_in(fake, provider))


def test_the_verifier_of_another_browser_is_refused() -> None:
    fake = FakeProvider(groups=[])
    with pytest.raises(SignInRefused, match="invalid_grant"):
        asyncio.run(sign_in(fake, fake.provider(), verifier="x" * 48))


def test_groups_that_the_token_lacks_are_asked_of_the_userinfo_of_the_same_person() -> None:
    fake = FakeProvider()
    fake.userinfo = {"sub": "1", "groups": ["team-a"], "iss": "https://evil.example"}
    claims = asyncio.run(sign_in(fake, fake.provider()))
    assert (claims["groups"], claims["iss"]) == (["team-a"], ISSUER)
    fake.userinfo = {"sub": "2", "groups": ["admins"]}
    with pytest.raises(SignInRefused, match="another user"):
        asyncio.run(sign_in(fake, fake.provider()))


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"issuer": "https://sso.example.com"}, "exactly as"),
        ({"token_endpoint": "http://sso.example.com/token"}, "token_endpoint is no https URL"),
        ({"jwks_uri": None}, "it has no jwks_uri"),
    ],
)
def test_a_document_that_cannot_be_trusted_is_not_used(
    document: dict[str, Any], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    fake = FakeProvider()
    fake.document = document
    with pytest.raises(ProviderAway, match="The log says why"):
        asyncio.run(fake.provider().begin(BACK))
    assert words in caplog.text


def test_options_in_a_document_do_not_reach_the_client() -> None:
    fake = FakeProvider(groups=[])
    fake.document = {"verify": False, "client_id": "another", "proxy": "http://evil.example", "jwks": {"keys": []}}
    assert asyncio.run(sign_in(fake, fake.provider()))["sub"] == "1"


def test_a_provider_that_comes_back_is_used_and_an_old_document_serves_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = FakeProvider(groups=[])
    provider = fake.provider()
    fake.status = 502
    with pytest.raises(ProviderAway):
        asyncio.run(provider.begin(BACK))
    fake.status = 200
    asyncio.run(provider.begin(BACK))
    fake.status = 502
    monkeypatch.setattr(oidc, "FRESH_S", 0.0)
    assert asyncio.run(provider.begin(BACK))["url"].startswith(ISSUER)


def test_no_secret_reaches_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for wrong in ({}, {"verifier": "x" * 48}):
        fake = FakeProvider(groups=[], nonce="another")
        with pytest.raises(SignInRefused):
            asyncio.run(sign_in(fake, fake.provider(), **wrong))
    assert SECRET not in caplog.text
    assert not {"access", "x" * 48} & set(caplog.text.split())


def people(**changes: Any) -> Oidc:
    directory = Directory({"team-a": "shop", "team-b": "press"}, ["admins"])
    provider: Any = None
    return Oidc(**{"provider": provider, "pending": provider, "directory": directory, "user": "email",
                   "groups": "groups", "tenant": None, **changes})  # fmt: skip


def test_claims_choose_the_name_the_tenant_and_the_rights() -> None:
    ada = {"sub": "1", "email": "ada@example.com", "groups": ["other", "team-b", "admins"]}
    assert viewer_of(people(), ada) == Viewer("ada@example.com", "press", True)
    assert viewer_of(people(), {"sub": "1", "groups": "team-a"}) == Viewer("1", "shop", False)
    nested = {"sub": "1", "realm_access": {"roles": ["team-a", 7]}, "org": "press"}
    assert viewer_of(people(groups="realm_access.roles"), nested).tenant == "shop"
    assert viewer_of(people(tenant="org", groups="realm_access.roles"), nested).tenant == "press"
    assert viewer_of(people(directory=Directory({"*": "default"}, [])), {"sub": "1"}).tenant == "default"
    assert find_claim({"https://a.b/c": 1}, "https://a.b/c") == 1


@pytest.mark.parametrize(
    ("changes", "claims", "words"),
    [
        ({}, {}, "has no claim groups"),
        ({"tenant": "org"}, {"groups": ["team-a"]}, "has no claim org"),
        ({"tenant": "org"}, {"org": "A b"}, "does not name a tenant in the claim org"),
        ({"tenant": "org"}, {"org": ["shop"]}, "does not name a tenant in the claim org"),
    ],
)
def test_a_person_without_a_tenant_is_told_which_claim_is_missing(
    changes: dict[str, Any], claims: dict[str, Any], words: str
) -> None:
    with pytest.raises(SignInRefused, match=words):
        viewer_of(people(**changes), {"sub": "1", **claims})


def test_a_person_whose_groups_have_no_tenant_is_told_whom_to_ask() -> None:
    with pytest.raises(HTTPException, match="Ask an operator"):
        viewer_of(people(), {"sub": "1", "groups": ["nobody"]})


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("/jobs/1?state=failed&a=%2F%2Fb", True),
        ("//evil.example", False),
        ("/\\evil.example", False),
        ("https://evil.example/jobs", False),
        ("javascript:alert(1)", False),
        ("jobs", False),
        ("/\t/evil.example", False),
        ("/jobs\r\nSet-Cookie: a=b", False),
        ("/sign-in/begin?to=/sign-in/begin", False),
        ("//[", False),
        ("/" + "a" * 600, False),
        ("", False),
    ],
)
def test_a_sign_in_leads_back_into_the_console_alone(path: str, kept: bool) -> None:
    assert local_path(path) == (path if kept else "/jobs")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ISSUER": "http://sso.example.com"}, "OIDC_ISSUER: .*is not allowed"),
        ({"ISSUER": "https://a:b@sso.example.com"}, "is not allowed"),
        ({"ISSUER": "https://sso.example.com?a=b"}, "is not allowed"),
        ({"ISSUER": None}, "OIDC_ISSUER: required with"),
        ({"CLIENT_ID": None}, "needs DARKROOM_CONSOLE_OIDC_CLIENT_ID"),
        ({"CLIENT_SECRET": " "}, "OIDC_CLIENT_SECRET: it is empty"),
        ({"TENANT_CLAIM": "org"}, "are both given"),
        ({"../TENANTS": "{}"}, "needs DARKROOM_CONSOLE_TENANTS"),
        ({"../PROXY_USER_HEADER": "X-User", "../PROXY_NETWORKS": "10.0.0.0/8"}, "cannot be given with"),
    ],
)
def test_settings_that_are_incomplete_or_contradict_are_refused(changes: dict[str, str | None], words: str) -> None:
    assert load_console(BASIC).console_oidc_issuer == ISSUER
    given: dict[str, Any] = {
        f"DARKROOM_CONSOLE_OIDC_{name}".replace("OIDC_../", ""): value for name, value in changes.items()
    }
    with pytest.raises(SettingsError, match=words) as refused:
        load_console({name: value for name, value in {**BASIC, **given}.items() if value is not None})
    assert SECRET not in str(refused.value)


def test_an_error_of_the_network_is_no_bug() -> None:
    class Broken(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            raise httpx2.ConnectTimeout("no answer", request=request)

    provider = oidc.Provider(ISSUER, CLIENT, SECRET, [], transport=Broken())
    with pytest.raises(ProviderAway, match="where people sign in"):
        asyncio.run(provider.begin(BACK))
    assert asyncio.run(provider.end_session()) is None
