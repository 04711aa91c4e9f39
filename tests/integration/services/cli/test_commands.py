"""The commands, run as a person runs them: answers, exit codes, and messages instead of stack traces."""

import json
import re
import tarfile
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from services.database import schema
from services.registry import aliases, evaluations, releases
from tests.support.commands import Completed, Darkroom
from tests.support.releases import make_tiny_release
from tests.support.stack import Process, Stack
from training.model import release as release_format

UNREACHABLE = "postgresql+psycopg://nobody:a-secret-password@127.0.0.1:1/darkroom"


def refused(done: Completed, *words: str) -> None:
    """It failed with a message that has these words, and with nothing that a person should not see."""
    assert done.returncode == 1, done
    for word in words:
        assert word in done.stderr, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert "a-secret-password" not in done.stderr + done.stdout


def test_up_again_leaves_everything_as_it_is(stack: Stack, darkroom: Darkroom) -> None:
    before = json.loads(darkroom("status", "--json").stdout)
    done = darkroom("up", "--parts", "none")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("already runs") == 3
    assert json.loads(darkroom("status", "--json").stdout) == before


def test_up_on_a_port_that_is_taken_names_it(stack: Stack, darkroom: Darkroom, tmp_path: Path) -> None:
    taken = json.loads((stack.root / "stack.json").read_text())["postgres_port"]
    done = darkroom("up", "--postgres-port", str(taken), DARKROOM_ROOT=str(tmp_path / "other"))
    refused(done, "postgres", str(taken), "another port")


def test_status_and_down_where_nothing_ever_ran(darkroom_here: Darkroom, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    status = darkroom_here("status", DARKROOM_ROOT=nowhere)
    assert (status.returncode, "darkroom up" in status.stdout) == (1, True)
    down = darkroom_here("down", DARKROOM_ROOT=nowhere)
    assert (down.returncode, "Nothing was running" in down.stdout) == (0, True)


@pytest.mark.parametrize(
    "command", [["worker"], ["dispatcher"], ["jobs", "list"], ["releases", "list"], ["db", "upgrade"]]
)
def test_without_a_database(stack: Stack, darkroom: Darkroom, darkroom_here: Darkroom, command: list[str]) -> None:
    run = darkroom if command in (["worker"], ["dispatcher"]) else darkroom_here
    refused(run(*command, DARKROOM_DATABASE_URL=UNREACHABLE), "Postgres", "does not answer", "darkroom up")


@pytest.mark.parametrize("command", ["worker", "dispatcher"])
def test_with_a_bucket_that_is_missing(stack: Stack, darkroom: Darkroom, command: str) -> None:
    refused(darkroom(command, DARKROOM_S3_BUCKET="nowhere"), "bucket 'nowhere' does not exist", "DARKROOM_S3_BUCKET")


@pytest.mark.parametrize("command", ["worker", "dispatcher"])
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_process_that_cannot_register_says_so_in_one_line(
    stack: Stack, darkroom: Darkroom, command: str, log_format: str
) -> None:
    observer = stack.engine("observer").url.render_as_string(hide_password=False)
    done = darkroom(command, DARKROOM_DATABASE_URL=observer, DARKROOM_LOG_FORMAT=log_format)
    refused(done, "permission denied")
    assert len(done.stderr.splitlines()) == 1


def test_with_no_settings_at_all(darkroom_here: Darkroom, tmp_path: Path) -> None:
    refused(darkroom_here("jobs", "list", DARKROOM_ROOT=str(tmp_path)), "DARKROOM_DATABASE_URL", "darkroom up")


def test_a_database_without_tables_says_how_to_make_them(stack: Stack, darkroom_here: Darkroom) -> None:
    url = stack.engine("migrator").url.set(database="postgres").render_as_string(hide_password=False)
    refused(darkroom_here("jobs", "list", DARKROOM_DATABASE_URL=url), "darkroom db upgrade")


def test_a_jobs_life_by_commands(
    stack: Stack, darkroom_here: Darkroom, dispatcher: Process, worker: Process, tmp_path: Path
) -> None:
    items = [{"class_label": 1}, {"class_label": 2}]
    request = json.dumps({"items": items, "images_per_item": 3, "steps": 2, "output": {"archive": "tar"}})
    submitted = darkroom_here("jobs", "submit", "--model", "tiny", "--request", request, "--idempotency-key", "cli")
    job_id = submitted.stdout.strip()
    assert str(uuid.UUID(job_id)) == job_id
    again = darkroom_here(
        "jobs", "submit", "--model", "tiny", "--request", request, "--idempotency-key", "cli", "--json"
    )
    assert json.loads(again.stdout) == {"id": job_id}
    other = darkroom_here("jobs", "submit", "--model", "tiny", "--request", '{"items": []}', "--idempotency-key", "cli")
    refused(other, "idempotency_key", job_id)

    watched = darkroom_here("jobs", "watch", job_id)
    assert watched.returncode == 0, watched.stderr
    assert "succeeded: 6 of 6 images" in watched.stdout
    shown = json.loads(darkroom_here("jobs", "show", job_id, "--json").stdout)
    assert (shown["state"], shown["total"], shown["model"]) == ("succeeded", 6, "tiny")
    assert job_id in darkroom_here("jobs", "list").stdout
    assert job_id in [job["id"] for job in json.loads(darkroom_here("jobs", "list", "--json").stdout)]

    listed = darkroom_here("jobs", "outputs", job_id, "--download", str(tmp_path / "images"))
    assert f"0\ts3://darkroom/outputs/default/{job_id}/images/00000000.png" in listed.stdout
    assert len(list((tmp_path / "images").glob("*.png"))) == 6
    manifest = json.loads((tmp_path / "images" / "manifest.json").read_text())
    assert manifest["counts"] == {"total": 6, "succeeded": 6, "failed": 0}
    assert len((tmp_path / "images" / "outputs-00000.jsonl").read_text().splitlines()) == 6
    linked = darkroom_here("jobs", "outputs", job_id, "--links", "1h", "--json")
    assert all("X-Amz-Expires=3600" in row["link"] for row in json.loads(linked.stdout)), linked.stdout
    refused(
        darkroom_here("jobs", "outputs", job_id, "--links", "8d"), "--links: '8d' is not allowed; permitted: 1s to 7d"
    )
    assert len(json.loads(darkroom_here("jobs", "outputs", job_id, "--json").stdout)) == 6
    tars = darkroom_here("jobs", "outputs", job_id, "--archives", "--download", str(tmp_path / "tars"))
    assert f"\ts3://darkroom/outputs/default/{job_id}/archive-00000.tar\n1 archives in" in tars.stdout, tars.stderr
    names = {"archive-00000.tar", "errors.jsonl", "manifest.json", "outputs-00000.jsonl"}
    assert {path.name for path in (tmp_path / "tars").iterdir()} == names
    with tarfile.open(tmp_path / "tars" / "archive-00000.tar") as tar:
        assert len(tar.getnames()) == 12
    (archive,) = json.loads(darkroom_here("jobs", "outputs", job_id, "--archives", "--links", "1h", "--json").stdout)
    assert archive["images"] == 6
    assert "X-Amz-Expires=3600" in archive["link"]
    sheet = darkroom_here("jobs", "sheet", job_id, "--output", str(tmp_path / "sheet.png"), "--scale", "1")
    assert sheet.returncode == 0
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.size == (3 * 34 + 2, 2 * 34 + 2)


def test_a_rejected_job_exits_3_and_says_why(stack: Stack, darkroom: Darkroom, dispatcher: Process) -> None:
    job_id = stack.submit({"items": [{"class_label": 99}]})
    watched = darkroom("jobs", "watch", str(job_id))
    assert watched.returncode == 3
    assert "items[0].class_label: 99 is not allowed; permitted: an integer from 0 to 9" in watched.stdout
    assert "0/?" not in watched.stderr, "a bar of images that were never planned"
    refused(
        darkroom("jobs", "outputs", str(job_id), "--archives"),
        "has no archives: it is rejected; a job has them at its end",
    )
    refused(darkroom("jobs", "sheet", str(job_id)), "has no images (rejected: items[0].class_label")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["jobs", "submit", "--model", "tiny", "--request", "{bad"], ["--request: not JSON", "an example"]),
        (["jobs", "submit", "--model", "tiny", "--request", "[1]"], ["--request: not a JSON object"]),
        (["jobs", "submit", "--model", "tiny", "--request", "{}", "--queue", "x"], ['queue: "x" does not exist']),
        (["jobs", "show", "not-an-id"], ["'not-an-id' is not a job id", "darkroom jobs list"]),
        (["jobs", "show", str(uuid.UUID(int=7))], ["you have no job"]),
        (["jobs", "watch", "7"], ["is not a job id"]),
        (
            ["jobs", "submit", "--model", "tiny", "--request", "{}", "--deadline", "soon"],
            ["--deadline: 'soon' is not a time; permitted: such as 2030-01-31T18:00+01:00"],
        ),
        (["jobs", "submit-many", "/nowhere"], ["/nowhere does not exist"]),
        (["jobs", "cancel", str(uuid.UUID(int=7))], ["you have no job"]),
        (["jobs", "retry", str(uuid.UUID(int=7))], ["you have no job"]),
        (["queues", "pause", "nowhere"], ["queue: 'nowhere' does not exist; permitted: default"]),
        (["tenants", "set", "nobody", "--weight", "2"], ["tenant: 'nobody' does not exist; permitted: ", "default"]),
        (["tenants", "set", "default"], ["nothing to change"]),
        (["queues", "add", "night", "Day"], ["queue: 'Day' is not allowed; permitted: a letter a-z, then a-z, 0-9"]),
        (["releases", "warm"], ["nothing to fetch: give at least one release, or --alias"]),
        (["releases", "show", "nobody"], ["no release is called 'nobody'"]),
        (["releases", "promote", "tiny@77"], ["'tiny' has no version 77; there are: 1"]),
        (["releases", "promote", "tiny@1", "--alias", "No!"], ["alias: 'No!' is not allowed"]),
        (["tenants", "add", "x", "--password-file", "/nowhere"], ["/nowhere does not exist"]),
        (
            ["db", "add-tenant", "x", "--password-file", "/nowhere"],
            ["/nowhere does not exist", "`darkroom tenants add`"],
        ),
        (["db", "logins"], ["renamed to `darkroom db set-logins`", "DARKROOM_LOGINS_DIR: '.' is not a folder"]),
        (["pipeline", "compile", "--output", "/nowhere/p.yaml"], ["/nowhere does not exist"]),
        (
            ["pipeline", "compile", "--output", "package"],
            ["--output: 'package' is not allowed; permitted: a path that"],
        ),
    ],
)
def test_a_mistake_is_one_message(stack: Stack, darkroom_here: Darkroom, command: list[str], words: list[str]) -> None:
    refused(darkroom_here(*command), *words)


def test_a_paused_queue_waits_and_a_cancelled_job_is_tried_again(
    stack: Stack, darkroom_here: Darkroom, dispatcher: Process, worker: Process, tmp_path: Path
) -> None:
    def list_queues() -> dict[str, Any]:
        return {row["name"]: row for row in json.loads(darkroom_here("queues", "list", "--json").stdout)}

    assert darkroom_here("queues", "add", "night").returncode == 0
    assert "darkroom queues resume default" in darkroom_here("queues", "pause", "default").stdout
    try:
        left = list_queues()["default"]["waiting"]  # by tests that submitted jobs for a later time
        many = tmp_path / "many.jsonl"
        job = {"model": "tiny", "request": {"items": [{"class_label": 1}], "steps": 1}}
        many.write_text("\n".join(json.dumps(job) for _ in range(3)))
        ids = darkroom_here("jobs", "submit-many", str(many)).stdout.split()
        assert len(ids) == 3
        queues = list_queues()
        assert queues["default"] == {"name": "default", "paused": True, "waiting": left + 3, "leased": 0}
        assert queues["night"]["waiting"] == 0
        assert darkroom_here("jobs", "cancel", ids[0]).returncode == 0
        assert stack.wait(uuid.UUID(ids[0])).state == "cancelled"
        refused(darkroom_here("jobs", "cancel", ids[0]), "has already ended (cancelled)")
        refused(darkroom_here("jobs", "retry", ids[0]), "is cancelled; only a planned job")
    finally:
        assert darkroom_here("queues", "resume", "default").returncode == 0
    for one in ids[1:]:
        assert stack.wait(uuid.UUID(one)).state == "succeeded"


def test_what_a_tenant_may_is_changed_by_command(stack: Stack, darkroom_here: Darkroom) -> None:
    changed = darkroom_here("tenants", "set", "default", "--weight", "2.5", "--max-open-jobs", "7")
    assert changed.returncode == 0, changed.stderr
    try:
        tenants = json.loads(darkroom_here("tenants", "list", "--json").stdout)
        (default,) = [tenant for tenant in tenants if tenant["name"] == "default"]
        assert (default["weight"], default["max_open_jobs"], default["max_job_images"]) == (2.5, 7, 1_000_000)
        assert "inputs/default" in darkroom_here("tenants", "list").stdout
    finally:
        darkroom_here("tenants", "set", "default", "--weight", "1", "--max-open-jobs", "100000")


def test_a_tenant_is_added_by_its_new_and_its_old_name(stack: Stack, darkroom_here: Darkroom, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("a-secret-password\n")
    added = darkroom_here("tenants", "add", "studio", "--password-file", str(password), "--json")
    assert json.loads(added.stdout) == {"name": "studio", "login": "tenant_studio"}
    assert added.stderr == ""
    again = darkroom_here("db", "add-tenant", "studio", "--password-file", str(password))
    assert (again.returncode, again.stdout) == (0, "Tenant studio submits as login tenant_studio.\n")
    assert "renamed to `darkroom tenants add`" in again.stderr
    assert "studio" in [tenant["name"] for tenant in json.loads(darkroom_here("tenants", "list", "--json").stdout)]
    url = stack.engine("submitter").url.set(username="tenant_studio", password="a-secret-password")
    listed = darkroom_here("jobs", "list", "--json", DARKROOM_DATABASE_URL=url.render_as_string(hide_password=False))
    assert (listed.returncode, json.loads(listed.stdout)) == (0, []), listed.stderr


def test_answers_for_programs(stack: Stack, darkroom_here: Darkroom, tmp_path: Path) -> None:
    def answer(*command: str) -> object:
        done = darkroom_here(*command, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert answer("db", "upgrade") == answer("db", "wait") == {"revision": schema.newest_revision()}
    assert answer("queues", "add", "evening") == {"queues": ["evening"]}
    assert answer("queues", "pause", "evening") == {"name": "evening", "paused": True}
    assert answer("queues", "resume", "evening") == {"name": "evening", "paused": False}
    assert answer("tenants", "set", "default", "--weight", "1") == {"name": "default", "weight": 1.0}
    assert answer("releases", "promote", "tiny@1") == {"name": "tiny", "alias": "production", "version": 1}
    many = tmp_path / "many.jsonl"
    many.write_text(json.dumps({"model": "tiny", "queue": "evening", "request": {"items": [{"class_label": 1}]}}))
    submitted = answer("jobs", "submit-many", str(many))
    assert isinstance(submitted, dict)
    (job_id,) = submitted["ids"]
    assert answer("jobs", "cancel", job_id) == {"id": job_id, "cancel_requested": True}
    deleted = answer("prune", "--dry-run")
    assert isinstance(deleted, dict)
    assert deleted.keys() == {"dry_run", "jobs", "blobs"}


def test_releases_by_commands(stack: Stack, darkroom_here: Darkroom) -> None:
    listed = json.loads(darkroom_here("releases", "list", "--json").stdout)
    (tiny,) = [release for release in listed if release["name"] == "tiny"]
    assert tiny["aliases"] == ["production"]
    assert "tiny@1" in darkroom_here("releases", "list").stdout
    promoted = darkroom_here("releases", "promote", "tiny@1", "--alias", "candidate")
    assert "tiny@candidate is now version 1" in promoted.stdout
    shown = json.loads(darkroom_here("releases", "show", "tiny@candidate", "--json").stdout)
    assert shown["aliases"] == ["candidate", "production"]
    assert re.search(
        r"class_label: an integer from 0 to \d+", " ".join(darkroom_here("releases", "show", "tiny").stdout.split())
    )


def test_two_releases_are_compared_and_the_older_one_comes_back(
    stack: Stack, darkroom_here: Darkroom, tmp_path: Path
) -> None:
    with stack.engine("publisher").begin() as connection:
        for seed, shade in ((1, 40), (2, 200)):
            folder = make_tiny_release(tmp_path / str(seed), seed=seed, name="pair")
            Image.new("L", (30, 20), shade).save(folder / "samples.png")
            described = release_format.parse(json.loads((folder / release_format.MANIFEST).read_text()))
            lineage = {"experiment": {"steps": 100 * seed, "seed": 5}}
            release_format.write(folder, replace(described, lineage=lineage))
            releases.publish(connection, stack.store(), folder)
            evaluations.record_evaluation(
                connection, f"pair@{seed}", "same", {"psnr": 30.0 + seed, "judge": "a network"}
            )
            aliases.promote(connection, f"pair@{seed}", "production")
    sheet = tmp_path / "diff.png"
    told = darkroom_here("releases", "diff", "pair@1", "pair@2", "--output", str(sheet)).stdout
    for words in (r"experiment\.steps +100 +200", r"psnr +31\.0000 +32\.0000 +\+1\.0000"):
        assert re.search(words, told), told
    assert "experiment.seed" not in told
    with Image.open(sheet) as picture:
        assert picture.size == (30 + 16 + 30, 20)
        assert (picture.getpixel((5, 5)), picture.getpixel((60, 5))) == ((40, 40, 40), (200, 200, 200))
    assert "pair@production is version 1 again" in darkroom_here("releases", "rollback", "pair").stdout
    moves = json.loads(darkroom_here("releases", "history", "pair", "--json").stdout)
    assert [(move["before"], move["after"], move["rollback"]) for move in moves] == [
        (None, 1, False), (1, 2, False), (2, 1, True),
    ]  # fmt: skip
    assert "rollback" in darkroom_here("releases", "history", "pair").stdout
    refused(darkroom_here("releases", "rollback", "pair"), "pair@production has no earlier release to roll back to")


@pytest.mark.parametrize(
    "command", [[], ["db"], ["pipeline"], ["releases"], ["jobs"], ["queues"], ["tenants"], ["export"]]
)
def test_every_group_has_help(command: list[str]) -> None:
    import typer.testing

    from services.cli import app

    done = typer.testing.CliRunner().invoke(app, [*command, "--help"])
    assert done.exit_code == 0
    assert "Usage:" in done.stdout


def test_an_unknown_command_is_a_usage_error(darkroom: Darkroom) -> None:
    assert darkroom("developp").returncode == 2
