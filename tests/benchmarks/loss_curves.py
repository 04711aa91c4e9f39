"""The losses of several runs side by side: `python -m tests.benchmarks.loss_curves PLOT.png RUN [RUN ...]`.

Plots, for each run folder, the reconstruction loss, the discriminator's loss once it starts, and the perplexity of a
codebook.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from training.runs.progress import read_table

SMOOTHED = 25  # steps of the running mean


def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the running mean over SMOOTHED steps."""
    sums = np.cumsum(np.insert(values, 0, 0.0))
    count = np.minimum(np.arange(1, len(values) + 1), SMOOTHED)
    ends = np.arange(1, len(values) + 1)
    return (sums[ends] - sums[ends - count]) / count


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    options = parser.parse_args(arguments)
    across = min(2, len(options.runs))
    down = -(-len(options.runs) // across)
    figure, grid = plt.subplots(down, across, figsize=(5.2 * across, 3.2 * down), layout="constrained", squeeze=False)
    for run, axes in zip(options.runs, grid.flat, strict=False):
        rows = read_table(run / "losses.csv")
        step = np.array([row["step"] for row in rows])
        axes.plot(step, smooth(np.array([row["l1"] for row in rows])), label="L1")
        axes.set(title=run.name.replace("_", " "), xlabel="step", yscale="log")
        if "discriminator" in rows[0]:
            loss = np.array([row["discriminator"] for row in rows])
            begins = int(np.argmax(loss != 0))
            axes.plot(step[begins:], smooth(loss[begins:]), label=f"discriminator, from step {begins + 1}")
            axes.axvline(step[begins], color="grey", linewidth=0.8, linestyle=":")
        if "perplexity" in rows[0]:
            other = axes.twinx()
            other.plot(step, smooth(np.array([row["perplexity"] for row in rows])), color="green", linewidth=0.8)
            other.set_ylabel("perplexity of a batch", color="green")
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    figure.savefig(options.picture, dpi=100)


if __name__ == "__main__":
    main()
