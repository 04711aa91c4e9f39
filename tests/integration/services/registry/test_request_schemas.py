"""Tenants read the JSON Schema of requests to the releases that they may use, in SQL."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from services.job_requests.schema import published_schema
from services.registry import aliases, releases, request_schemas
from services.registry.releases import request_rules
from tests.support.commands import Darkroom
from tests.support.releases import make_tiny_release
from tests.support.stack import Stack
from tests.support.tenants import QUICK, Tenant, administrator, make_tenant

QUERY = "SELECT version, aliases, schema FROM request_schemas WHERE name = %s ORDER BY version"


def schemas(tenant: Tenant, name: str) -> list[Any]:
    with tenant.connect() as connection:
        return connection.execute(QUERY, (name,)).fetchall()


def wait_for_schemas(tenant: Tenant, name: str, count: int) -> list[Any]:
    deadline = time.monotonic() + 120
    while len(found := schemas(tenant, name)) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} schemas of {name}"
        time.sleep(0.1)
    return found


def publish(stack: Stack, folder: Path, **sampling: Any) -> None:
    with stack.engine("publisher").begin() as connection:
        name, version = releases.publish(connection, stack.store(), folder, sampling=sampling)
        aliases.promote(connection, f"{name}@{version}", "production")


def test_a_tenant_reads_the_schemas_of_its_releases_alone(
    stack: Stack, tmp_path: Path, darkroom_here: Darkroom
) -> None:
    for name in ("described", "secret"):
        publish(stack, make_tiny_release(tmp_path / name, seed=31, name=name))
    anyone = make_tenant(stack, "reads_all")
    one = make_tenant(stack, "reads_one", permitted_releases=["described"])
    with stack.process("dispatcher", **QUICK):
        (found,) = wait_for_schemas(anyone, "described", 1)
        wait_for_schemas(anyone, "secret", 1)
        assert (found.version, found.aliases) == (1, ["production"])
        check = Draft202012Validator(found.schema)
        assert check.is_valid({"items": [{"class_label": 3}], "steps": 30})
        assert not check.is_valid({"items": [{"class_label": 30}]})
        assert json.loads(darkroom_here("releases", "show", "described", "--schema").stdout) == found.schema
        # A release that is published while the dispatcher runs, with its own defaults.
        publish(stack, make_tiny_release(tmp_path / "more", seed=32, name="described"), steps=7)
        (_, second) = wait_for_schemas(anyone, "described", 2)
        assert second.schema["properties"]["steps"]["default"] == 7
        assert [row.version for row in schemas(one, "described")] == [1, 2]
        assert schemas(one, "secret") == []
    darkroom_here("releases", "retire", "described@1")
    assert [row.version for row in schemas(anyone, "described")] == [2]


def test_schemas_of_other_code_are_made_anew_and_a_broken_release_keeps_none_back(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_schemas, "BATCH", 2)
    folders = [make_tiny_release(tmp_path / str(seed), seed=seed, name=f"anew{seed}") for seed in (41, 42, 43)]
    for folder in folders:
        publish(stack, folder)
    engine = stack.engine("dispatcher")
    with administrator(stack) as owner:
        ids = [row.id for row in owner.execute("SELECT id FROM releases WHERE name LIKE 'anew%' ORDER BY name")]
        whole = owner.execute("SELECT manifest FROM releases WHERE id = %s", (ids[0],)).fetchall()[0].manifest
        owner.execute("UPDATE releases SET manifest = manifest - 'conditions' WHERE id = %s", (ids[0],))
        try:
            while make(engine, anew=False):
                pass
            made = "SELECT schema IS NOT NULL FROM made_schemas WHERE release_id = ANY(%s) ORDER BY release_id"
            assert [row[0] for row in owner.execute(made, (ids,))] == [False, True, True]
            assert not make(engine, anew=False)
            assert not make(engine, anew=True)
            owner.execute("UPDATE made_schemas SET code = 'older', schema = '{}'")
            assert not make(engine, anew=False)
            while make(engine, anew=True):
                pass
            rows = owner.execute("SELECT schema FROM made_schemas WHERE release_id = ANY(%s)", (ids[1:],)).fetchall()
            assert [row.schema for row in rows] == [published_schema(request_rules(whole))] * 2
        finally:
            owner.execute("UPDATE releases SET manifest = %s WHERE id = %s", (json.dumps(whole), ids[0]))
            owner.execute("DELETE FROM made_schemas WHERE release_id = ANY(%s)", (ids,))


def make(engine: Any, *, anew: bool) -> bool:
    with engine.begin() as connection:
        return request_schemas.make_schemas(connection, anew=anew)
