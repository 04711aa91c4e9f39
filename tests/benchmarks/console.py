"""How fast the console answers for 100,000 images in one job, 10,000 jobs and 20 tenants.

    python -m tests.benchmarks.console [--images 100000] [--jobs 10000] [--tenants 20] [--rounds 100]

Requests are made one after another over HTTP, to a console and a Postgres on this machine. Half of the jobs of its
tenant are newer than the large one. A search follows "Older ones" until it has found an image of it. `first image` and
`scroll` are measured in Chromium: until the first image of a gallery is drawn, and until the images of the next screen
are.
"""

import argparse
import html
import os
import random
import re
import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import httpx
from sqlalchemy import text

from services.console.sign_in import SignInLinks
from services.console.viewer import Viewer
from tests.support.browser import open_browser, served_console
from tests.support.console import make_job
from tests.support.stack import Stack, fresh_stack
from tests.support.tenants import make_tenant

OLDER = re.compile(r'<a rel="next" href="([^"]+)"')
COPY_JOBS = """
    INSERT INTO jobs (id, tenant, model, request, plan, state, total, succeeded, failed, started_at, finished_at)
    SELECT uuidv7(random() * interval '2 days' - interval '1 day'), :tenant, model, request, plan, state, total, 0, 0,
        now(), now()
    FROM jobs CROSS JOIN generate_series(1, :count) WHERE id = :job
"""


def main() -> None:
    """Fill a stack of its own, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--tenants", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    with fresh_stack() as stack:
        job = fill(stack, options.images, options.jobs, options.tenants)
        with served_console(stack) as (address, links):
            link = f"{address}/sign-in?token={links.issue(Viewer('ada', 'default'))}"
            with httpx.Client(base_url=address, follow_redirects=True, timeout=60) as client:
                client.get(link).raise_for_status()
                print(f"load {os.getloadavg()[0]:.0f} on {os.cpu_count()} processors")
                print("| request | median ms | p95 ms |\n| --- | ---: | ---: |")
                measure_requests(client, job, options.images, options.rounds)
            measure_browser(address, links, job)


def fill(stack: Stack, images: int, jobs: int, tenants: int) -> uuid.UUID:
    """Add a job of many images, and many jobs of each tenant's share. Returns the large job."""
    items = [{"class_label": number % 10, "caption": f"a drawing, number {number}"} for number in range(1_000)]
    job = make_job(stack, images, items=items, pictures=200, size=256, failures=[images // 2, images - 9])
    names = ["default", *(f"tenant-{number}" for number in range(1, tenants))]
    for name in names[1:]:
        make_tenant(stack, name)
    with stack.engine("migrator").begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        for name in names:
            share = jobs // 2 if name == "default" else jobs // 2 // (tenants - 1)
            connection.execute(text(COPY_JOBS), {"tenant": name, "count": share, "job": job})
    with stack.engine("migrator").connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE jobs, outputs"))
    return job


def measure_requests(client: httpx.Client, job: uuid.UUID, images: int, rounds: int) -> None:
    """Print the time of each kind of request."""
    draw = random.Random(1)
    jobs: dict[str, Callable[[], str]] = {
        "jobs, first page": lambda: "/jobs",
        "jobs, by a word that none has": lambda: "/jobs?q=nothing",
        "gallery, anywhere": lambda: f"/jobs/{job}?after={draw.randrange(images)}",
        "gallery, failures": lambda: f"/jobs/{job}?failed=true",
        "gallery, by words": lambda: f"/jobs/{job}?q=number+{draw.randrange(1_000)}",
        "gallery, by class": lambda: f"/jobs/{job}?label={draw.randrange(10)}&after={draw.randrange(images)}",
        "recall, by words": lambda: f"/recall?q=number+{draw.randrange(1_000)}",
        "recall, by seed": lambda: f"/recall?seed={7 + draw.randrange(images)}",
        "service": lambda: "/service",
        "image": lambda: f"/jobs/{job}/images/{draw.randrange(images)}",
        "thumbnail": lambda: f"/jobs/{job}/images/{draw.randrange(images)}/256.webp",
    }
    for name, address in jobs.items():
        taken = []
        for _ in range(rounds):
            path, began = address(), time.perf_counter()
            ask(client, path, job)
            taken.append((time.perf_counter() - began) * 1000)
        print_row(name, taken)


def ask(client: httpx.Client, path: str, job: uuid.UUID) -> None:
    """Open a page; of a search, all pages until one has an image of the job."""
    page = client.get(path).raise_for_status().text
    while path.startswith("/recall") and f'id="found-{job}' not in page:
        following = OLDER.search(page)
        assert following, f"{path} finds no image of {job}"
        page = client.get(html.unescape(following[1])).raise_for_status().text


def measure_browser(address: str, links: SignInLinks, job: uuid.UUID, rounds: int = 20) -> None:
    """Print until when the first image is drawn, how long a screen of scrolling takes, and the memory of scripts."""
    with open_browser() as browser:
        page: Any = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{address}/sign-in?token={links.issue(Viewer('ada', 'default'))}")
        drawn = "() => [...document.querySelectorAll('.grid img')].some(one => one.complete && one.naturalWidth)"
        first = []
        for number in range(rounds):
            began = time.perf_counter()
            page.goto(f"{address}/jobs/{job}?after={number * 500}", wait_until="commit")
            page.wait_for_function(drawn, polling=10)
            first.append((time.perf_counter() - began) * 1000)
        print_row("first image", first)
        seen = """() => [...document.querySelectorAll('.grid img')].every(one => {
            const box = one.getBoundingClientRect();
            return box.bottom < 0 || box.top > innerHeight || (one.complete && one.naturalWidth);
        })"""
        screens = []
        for _ in range(3 * rounds):
            began = time.perf_counter()
            page.evaluate("scrollBy(0, innerHeight)")
            page.wait_for_function(seen, polling=10)
            screens.append((time.perf_counter() - began) * 1000)
        print_row("scroll by a screen", screens)
        nodes = page.evaluate("document.querySelectorAll('*').length")
        memory = page.evaluate("performance.memory.usedJSHeapSize / 2 ** 20")
        print(f"after {3 * rounds} screens: {nodes} elements, {memory:.0f} MiB of scripts")


def print_row(name: str, taken: Sequence[float]) -> None:
    """Print the median and the 95th percentile of durations."""
    print(f"| {name} | {statistics.median(taken):.0f} | {statistics.quantiles(taken, n=20)[-1]:.0f} |", flush=True)


if __name__ == "__main__":
    main()
