"""Plans a light decoder for a release: its images and its experiment file."""

from pathlib import Path

from training.experiments import compose
from training.experiments.schema import LightDecoderExperiment
from training.model.release import Release
from training.planning.distillation import draft, write_experiment

FILE = "light_decoder.yaml"
HEADER = "# Written by darkroom distil-decoder.\n"
BATCH = 16  # images
RATE = 1e-3


def plan(teacher: Release, folder: Path, root: str, name: str, steps: int) -> LightDecoderExperiment:
    """Write the experiment file in `experiments/` and return the experiment. root: of the images.

    Raises ExperimentError.
    """
    fields = draft(teacher, folder, root, name)
    del fields["encode_each_step"]
    run = f"{name}-light"
    chosen = {"output": str(Path("runs") / run), "steps": steps, "batch_size": BATCH}
    fields |= {**chosen, "optimiser": {"learning_rate": RATE}}
    path = Path("experiments") / run / FILE
    write_experiment(path, "light_decoder", fields, HEADER)
    found = compose.load(str(path))
    assert isinstance(found, LightDecoderExperiment)
    return found
