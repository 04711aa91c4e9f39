"""What a person looks at in the KFP UI: one page a stage, its pictures within it, for the UI fetches nothing else."""

import base64
import html
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

STYLE = (
    "body{font:14px sans-serif;margin:24px;color:#222}table{border-collapse:collapse;margin:12px 0}"
    "td,th{padding:3px 14px 3px 0;text-align:left;border-bottom:1px solid #ddd;vertical-align:top}"
    "img{image-rendering:pixelated;max-width:100%;border:1px solid #ddd}h1{font-size:20px}h2{font-size:16px}"
)
TITLES = {
    "loss": "Losses",
    "samples": "Samples",
    "denoising": "How some came about",
    "nearest": "Nearest training images: samples above, what they are nearest to below",
    "reconstructions": "Held-out images above their reconstructions",
}


def training(output: Path, page: Path) -> None:
    """The page of a training stage: card, loss curves, sheets."""
    release = output / "release"
    pictures = [output / "loss.png", release / "samples.png", release / "denoising.png"]
    write(page, output.name, [f"<pre>{html.escape((release / 'card.md').read_text())}</pre>"], pictures)


def evaluation(scores: Mapping[str, Any], output: Path, page: Path) -> None:
    """The page of an evaluation: the figures, then the sheets."""
    pictures = [output / f"{name}.png" for name in ("samples", "nearest", "reconstructions")]
    write(page, f"{scores['release']} on {scores['data']}", [table(scores)], pictures)


def table(scores: Mapping[str, Any]) -> str:
    """Figures, a row each; those of a group within it."""
    rows = []
    for name, value in scores.items():
        told = table(value) if isinstance(value, Mapping) else html.escape(shown(value))
        rows.append(f"<tr><th>{html.escape(name.replace('_', ' '))}</th><td>{told}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def shown(value: Any) -> str:
    """A figure, to four decimals."""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def write(page: Path, title: str, parts: Iterable[str], pictures: Iterable[Path]) -> None:
    """One HTML file that needs no other."""
    figures = [
        f"<h2>{html.escape(TITLES.get(path.stem, path.stem))}</h2>"
        f"<img src='data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}'>"
        for path in pictures
        if path.is_file()
    ]
    head = f"<!doctype html><meta charset='utf-8'><title>{html.escape(title)}</title><style>{STYLE}</style>"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f"{head}<h1>{html.escape(title)}</h1>{''.join(parts)}{''.join(figures)}\n")
