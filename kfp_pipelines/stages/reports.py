"""The report of each stage in the KFP UI: one HTML page that holds its own images, because the UI fetches no others."""

import base64
import html
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfp_pipelines.events import Message, emit
from kfp_pipelines.stages.notifying import notify

if TYPE_CHECKING:  # loads torch
    from training.evaluate_student import StudentScores

STYLE = (
    "body{font:14px sans-serif;margin:24px;color:#222}table{border-collapse:collapse;margin:12px 0}"
    "td,th{padding:3px 14px 3px 0;text-align:left;border-bottom:1px solid #ddd;vertical-align:top}"
    "img{image-rendering:pixelated;max-width:100%;border:1px solid #ddd}h1{font-size:20px}h2{font-size:16px}"
)
TITLES = {
    "loss": "Losses",
    "comparison": "The student's samples above its teacher's",
    "samples": "Samples",
    "denoising": "Denoising steps",
    "nearest": "Samples above their nearest training images",
    "reconstructions": "Held-out images above their reconstructions",
}
SUCCEEDED = ("SUCCEEDED", "COMPLETE", "CACHED")  # as the clouds' backends, and the open-source one, call it


def training(output: Path, page: Path) -> None:
    """Write the report of a training: card, loss curves and image sheets."""
    release = output / "release"
    images = [output / "loss.png", release / "samples.png", release / "denoising.png"]
    write(page, output.name, [f"<pre>{html.escape((release / 'card.md').read_text())}</pre>"], images)


def evaluation(scores: Mapping[str, Any], output: Path, page: Path) -> None:
    """Write the report of an evaluation: the metrics, then the image sheets."""
    images = [output / f"{name}.png" for name in ("samples", "nearest", "reconstructions")]
    write(page, f"{scores['release']} on {scores['data']}", [table(scores)], images)


def student(found: "StudentScores", output: Path, page: Path) -> None:
    """Write the report of a student: its distances, the comparison with its teacher, and the image sheets."""
    figures = found.comparison["figures"]
    compared = {name: {key: one[key] for key in ("release", "against", "verdict")} for name, one in figures.items()}
    parts = {
        "Fréchet distance by the number of evaluations": {str(n): one for n, one in found.distances.items()},
        f"{found.best_steps} evaluations against {found.comparison['against']}": compared,
        "metrics": found.metrics,
    }
    images = [output / f"{name}.png" for name in ("comparison", "samples", "nearest")]
    write(page, f"{found.metrics['release']} on {found.metrics['data']}", [table(parts)], images)


def end(run: str, state: str, code: str, message: str, page: Path, notify_url: str = "") -> None:
    """Report how a run ended, as an event and as a page in Markdown. notify_url: whom to tell if it failed."""
    succeeded = state.upper() in SUCCEEDED
    reason = message or code or "the backend gives no reason"
    text = f"run {run} ended: {'SUCCEEDED' if succeeded else f'{state}, {reason}'}"
    emit(Message(text))
    hint = "" if succeeded else "\n\nNothing was promoted. The log of the failed stage says why."
    page.write_text(f"# {text}{hint}\n")
    if notify_url and not succeeded:
        notify(notify_url, run, text)


def table(scores: Mapping[str, Any]) -> str:
    """Return metrics as an HTML table with a row each; a group of metrics is a table within its row."""
    rows = []
    for name, value in scores.items():
        cell = table(value) if isinstance(value, Mapping) else html.escape(format_value(value))
        rows.append(f"<tr><th>{html.escape(name.replace('_', ' '))}</th><td>{cell}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def format_value(value: Any) -> str:
    """Return a metric as text, with four decimals."""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def write(page: Path, title: str, parts: Iterable[str], images: Iterable[Path]) -> None:
    """Write a page: the title, the parts as HTML, then each image that exists."""
    sections = [
        f"<h2>{html.escape(TITLES.get(path.stem, path.stem))}</h2>"
        f"<img src='data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}'>"
        for path in images
        if path.is_file()
    ]
    head = f"<!doctype html><meta charset='utf-8'><title>{html.escape(title)}</title><style>{STYLE}</style>"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f"{head}<h1>{html.escape(title)}</h1>{''.join(parts)}{''.join(sections)}\n")
