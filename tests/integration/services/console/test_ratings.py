"""Ratings: given by a form or a key, used as a filter, and exported as a set that the data stage reads."""

import io
import json
import zipfile
from pathlib import Path

import pytest
from rich.console import Console
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from services.job_queue.viewing import set_viewer
from tests.support.console import make_job, open_console
from tests.support.console_releases import send_form
from tests.support.stack import Stack
from tests.support.tenants import make_tenant
from training.data.own_images.prepare import Settings, prepare

ITEMS = [{"class_label": 1, "caption": "a <b>fox</b>"}, {"class_label": 2, "caption": "an owl"}]


def test_a_rating_leads_to_the_next_image_and_filters_the_gallery(stack: Stack) -> None:
    make_tenant(stack, "rates-own")
    job = make_job(stack, 4, tenant="rates-own", items=ITEMS, failures=[3])
    console = open_console(stack, "rates-own")
    for index, rating, shown in ((0, 5, 1), (1, 2, 2), (2, 4, 3), (0, 3, 1)):
        path = f"/jobs/{job}/images/{index}"
        assert send_form(console, path, f"{path}/rating", rating=str(rating)).url.path == f"/jobs/{job}/images/{shown}"
    best = console.get(f"/jobs/{job}", params={"rating": 3}).text
    assert [f'id="image-{index}"' in best for index in range(4)] == [True, False, True, False]
    assert "★★★★<" in best
    gone = send_form(console, f"/jobs/{job}/images/2", f"/jobs/{job}/images/2/rating", rating="0")
    assert gone.status_code == 200
    assert 'id="image-2"' not in console.get(f"/jobs/{job}", params={"rating": 3}).text
    token = best.split('name="csrf" value="')[1].split('"')[0]
    for index, wrong, status in ((0, "6", 422), (0, "x", 422), (3, "5", 404), (9, "0", 404)):
        answer = console.post(f"/jobs/{job}/images/{index}/rating", data={"csrf": token, "rating": wrong})
        assert answer.status_code == status


def test_picks_become_a_set_that_the_data_stage_reads(stack: Stack, tmp_path: Path) -> None:
    make_tenant(stack, "rates-set")
    job = make_job(stack, 4, tenant="rates-set", items=ITEMS, pictures=4)
    console = open_console(stack, "rates-set")
    for index, rating in ((0, 5), (1, 1), (3, 4)):
        send_form(console, f"/jobs/{job}/images/{index}", f"/jobs/{job}/images/{index}/rating", rating=str(rating))
    answer = console.get(f"/jobs/{job}/picks.zip", params={"rating": 4})
    assert console.get(f"/jobs/{job}/picks.zip", params={"rating": 4}).content == answer.content
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        lines = [json.loads(line) for line in archive.read("metadata.jsonl").decode().splitlines()]
    assert [(line["text"], line["label"], line["rating"]) for line in lines] == [
        ("a <b>fox</b>", "1", 5), ("an owl", "2", 4)
    ]  # fmt: skip
    (tmp_path / "picks.zip").write_bytes(answer.content)
    settings = Settings(image_size=8, channels=3, held_out=0.5)
    images = prepare(str(tmp_path / "picks.zip"), tmp_path / "set", settings, console=Console(quiet=True))
    assert (images.description.count, images.description.classes) == (2, ("1", "2"))


def test_ratings_belong_to_their_tenant(stack: Stack) -> None:
    make_tenant(stack, "rates-a")
    make_tenant(stack, "rates-b")
    job = make_job(stack, 1, tenant="rates-a")
    send_form(open_console(stack, "rates-a"), f"/jobs/{job}/images/0", f"/jobs/{job}/images/0/rating", rating="5")
    other = open_console(stack, "rates-b")
    assert other.get(f"/jobs/{job}/picks.zip").status_code == 404
    with stack.engine("console").begin() as connection:
        set_viewer(connection, "rates-b")
        count = connection.scalar(text("SELECT count(*) FROM ratings WHERE job_id = :job"), {"job": job})
        assert count == 0
        forged = text(
            "INSERT INTO ratings (tenant, job_id, index, rating, rated_by) VALUES ('rates-a', :job, 9, 1, '')"
        )
        with pytest.raises(DBAPIError, match="row-level security"):
            connection.execute(forged, {"job": job})
