"""The pictures of the console in docs/console.md: every page with example data, in a headless Chromium.

    python -m tests.benchmarks.console_pictures [FOLDER] [--width 1100] [--scheme light] [--only NAME]

The images are drawn scenes of coloured shapes instead of samples. Nothing is trained.
"""

import argparse
import io
import json
import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from sqlalchemy import text

from services.console.app import make_app
from services.console.sign_in import SignInLinks
from services.console.viewer import Viewer
from services.job_queue.processes import record_heartbeat, register
from services.job_queue.states import ProcessKind
from services.registry.aliases import promote
from services.registry.evaluations import record_evaluation
from tests.support.browser import open_browser, served
from tests.support.console import console_settings, make_job
from tests.support.console_releases import releases_called
from tests.support.stack import Stack, fresh_stack
from training.data.own_images.prepare import Settings, prepare
from training.data.shapes import CLASSES, Scene, caption, draw_scene, render

SIZE, SHEET = 128, (10, 4)  # pixels of an image; columns and rows of a sheet
DOCUMENTED = (
    "jobs",
    "gallery",
    "ratings",
    "recall",
    "release",
    "data-set",
    "compare",
    "submit",
    "many",
    "service",
    "run",
)
HEIGHTS = {"jobs": 560, "gallery": 620, "errors": 420, "runs": 300}  # pixels; others: 760
CONDITIONS = {
    "type": "object",
    "properties": {
        "class_label": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 11}, {"enum": list(CLASSES)}]},
        "caption": {"type": "string"},
    },
    "required": ["class_label"],
    "additionalProperties": False,
    "guided": True,
}


def main() -> None:
    """Fill a stack of its own and write a picture of each page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("docs/results"))
    parser.add_argument("--width", type=int, default=1100)
    parser.add_argument("--scheme", choices=("light", "dark"), help="default: dark for the gallery, else light")
    parser.add_argument("--only", help="the name of one page, or `every`; default: those of the document")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with (
        fresh_stack() as stack,
        TemporaryDirectory() as runs,
        example_pages(stack, Path(runs)) as pages,
        serve(stack, Path(runs)) as link,
        open_browser() as browser,
    ):
        for name in pages if options.only == "every" else [options.only] if options.only else DOCUMENTED:
            scheme = options.scheme or ("dark" if name == "gallery" else "light")
            size = {"width": options.width, "height": HEIGHTS.get(name, 760)}
            context = browser.new_context(viewport=size, color_scheme=scheme)
            take(context, link(), pages[name], options.folder / f"console-{name}.png")


@contextmanager
def serve(stack: Stack, runs: Path, port: int = 0) -> Iterator[Any]:
    """Serve the console to an operator. Yields a function that returns a link that signs in."""
    links, settings = SignInLinks(), console_settings(stack).model_copy(update={"console_runs": runs})
    app = make_app(settings, stack.engine("console"), stack.store(), links)
    with served(app, port) as address:
        yield lambda: f"{address}/sign-in?token={links.issue(Viewer('ada', 'default', is_operator=True))}"


def take(context: Any, link: str, path: str, file: Path, *, whole: bool = False) -> None:
    """Write a picture of a page once its images are drawn. whole: also what is below the first screen."""
    tab = context.new_page()
    tab.goto(link)
    tab.goto(link.split("/sign-in")[0] + path)
    tab.wait_for_function("[...document.images].every(one => one.complete || one.loading === 'lazy')", timeout=60_000)
    tab.wait_for_timeout(700)
    tab.screenshot(path=file, full_page=whole)
    context.close()
    with Image.open(file) as taken:
        taken.convert("RGB").quantize(256).save(file, optimize=True)


# -- example data ------------------------------------------------------------------------------


@contextmanager
def example_pages(stack: Stack, runs: Path) -> Iterator[Mapping[str, str]]:
    """Fill a stack with releases, jobs, ratings, runs and processes. Yields the address of each page by name."""
    data = make_data_set(runs)
    make_run(runs / "shapes-2")
    with ExitStack() as releases:
        lineage = {"data": data, "experiment": {"optimizer": {"rate": 2e-4}, "steps": 20_000, "seed": 0}}
        shapes = {"image_shape": [3, SIZE, SIZE], "latent_shape": [4, SIZE // 8, SIZE // 8]}
        manifest = {"conditions": CONDITIONS, "lineage": lineage, **shapes}
        sheets = [sheet(first) for first in (0, 40)]
        rows = releases.enter_context(releases_called(stack, "shapes", 2, sheets=sheets, **manifest))
        with stack.engine("publisher").begin() as connection:
            for number, (distance, accuracy) in enumerate([(8.41, 0.957), (6.06, 0.981)], 1):
                metrics = {"frechet_distance": distance, "class_accuracy": accuracy, "recall": 0.61 + number / 50}
                record_evaluation(connection, f"shapes@{number}", "e2dcb5958fe2" * 5, metrics)
                promote(connection, f"shapes@{number}", "production")
        jobs = make_jobs(stack, [row.id for row in rows])
        make_processes(stack)
        job = jobs["large"]
        yield {
            "jobs": "/jobs", "gallery": f"/jobs/{job}", "ratings": f"/jobs/{job}?rating=1",
            "image": f"/jobs/{job}/images/3", "errors": f"/jobs/{jobs['partial']}/errors", "recall": "/recall?q=red",
            "releases": "/releases", "release": "/releases/shapes/2", "data-sets": "/data",
            "data-set": f"/data/{data['fingerprint']}", "compare": "/compare?a=shapes@1&b=shapes@2",
            "pairs": f"/compare/jobs?a={jobs['old']}&b={job}", "submit": "/submit?model=shapes@production",
            "many": "/many?state=running", "service": "/service", "runs": "/runs", "run": "/runs/shapes-2",
        }  # fmt: skip


def scene(number: int) -> Scene:
    """Return an example by number."""
    return draw_scene(np.random.default_rng(number))


def draw(number: int, size: int = SIZE) -> bytes:
    """Return an example as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(render(scene(number), size)[0]).save(buffer, "PNG")
    return buffer.getvalue()


def sheet(first: int) -> bytes:
    """Return a contact sheet of examples as a PNG file."""
    columns, rows = SHEET
    canvas = Image.new("RGB", (columns * 66, rows * 66), "white")
    for place in range(columns * rows):
        one = Image.fromarray(render(scene(first + place), 64)[0])
        canvas.paste(one, (1 + place % columns * 66, 1 + place // columns * 66))
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()


def make_data_set(runs: Path) -> dict[str, Any]:
    """Prepare a data set of examples in folders of classes, with a file that is no image. Returns its description."""
    with TemporaryDirectory() as source:
        for number in range(240):
            folder = Path(source, scene(number).shapes[0].name)
            folder.mkdir(exist_ok=True)
            (folder / f"{number:04d}.png").write_bytes(draw(number, 32))
        (Path(source, "red circle") / "scan-17.png").write_bytes(b"no picture")
        settings = Settings(image_size=32, held_out=0.1, name="shapes")
        prepare(source, runs / "data" / "shapes", settings, console=Console(quiet=True))
    description: dict[str, Any] = json.loads((runs / "data" / "shapes" / "images.json").read_text())
    return description


def make_run(folder: Path) -> None:
    """Write the losses and sample sheets of a training run."""
    (folder / "pictures").mkdir(parents=True)
    noise = np.random.default_rng(0)
    lines = ["step,loss,held_out_loss,gradient_norm"]
    for step in range(100, 20_001, 100):
        loss = 0.08 + 0.9 * math.exp(-step / 1500) + noise.normal(0, 0.008)
        lines.append(f"{step},{loss:.5f},{loss * 1.06:.5f},{0.4 + noise.exponential(0.1):.4f}")
    (folder / "losses.csv").write_text("\n".join(lines) + "\n")
    (folder / "config.yaml").write_text("experiment: shapes_diffusion\nsteps: 20000\nseed: 0\n")
    for step in (5_000, 10_000, 20_000):
        (folder / "pictures" / f"step-{step:08d}-samples.png").write_bytes(sheet(step))


def make_jobs(stack: Stack, releases: Sequence[int]) -> dict[str, uuid.UUID]:
    """Add jobs of several states, the newest last, and ratings of one. Returns some of them by name."""
    scenes, now = [scene(number) for number in range(400)], datetime.now(UTC)
    items = [{"class_label": one.shapes[0].name, "caption": caption(one)} for one in scenes]
    files = [draw(number) for number in range(400)]

    def add(count: int, minutes: float, release: int = 1, **columns: Any) -> uuid.UUID:
        return make_job(stack, count, items=items, release_id=releases[release], model="shapes@production",
                        created_at=now - timedelta(minutes=minutes), **{"files": files, **columns})  # fmt: skip

    old = add(400, 3 * 1440, 0, files=files[:3] + files[4:] + files[3:4], tags=["weekly"])
    partial = add(240, 300, failures=range(200, 232), tags=["weekly", "review"])
    add(64, 50, state="cancelled", total=400)
    large = add(400, 12, tags=["spring"])
    add(4_000, 5, state="running", succeeded=1_210, finished_at=None, tags=["catalogue"], priority=5)
    for n in (1, 2):
        stack.submit({"items": items[:40], "images_per_item": 25 * n, "seed": 7}, "shapes@production", tags=["night"],
                     run_after=now.replace(hour=2, minute=0) + timedelta(days=n))  # fmt: skip
    with stack.engine("migrator").begin() as connection:
        query = "INSERT INTO ratings (tenant, job_id, index, rating, rated_by) VALUES ('default', :job, :i, :r, 'ada')"
        ratings = [{"job": large, "i": index, "r": 1 + index * 7 % 5} for index in range(0, 60, 2)]
        connection.execute(text(query), ratings)
    return {"old": old, "partial": partial, "large": large}


def make_processes(stack: Stack) -> None:
    """Register workers and a dispatcher; one worker is silent."""
    with stack.engine("worker").begin() as connection:
        for number in range(3):
            worker = register(connection, ProcessKind.WORKER, ["default"] if number else None)
            record_heartbeat(connection, worker, "cuda-bfloat16-8c1f")
    with stack.engine("dispatcher").begin() as connection:
        register(connection, ProcessKind.DISPATCHER)
    with stack.engine("migrator").begin() as connection:
        silent = "UPDATE workers SET heartbeat_at = now() - interval '7 minutes' WHERE id = :id"
        connection.execute(text(silent), {"id": worker})


if __name__ == "__main__":
    main()
