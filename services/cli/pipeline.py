"""`darkroom pipeline`: the training pipeline, compiled for a cluster or run on this machine."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from services.cli.stack import CommandError, connect
from services.settings import ROOT_VARIABLE, root

app = typer.Typer(help="The training pipeline.", no_args_is_help=True)
console = Console(highlight=False, soft_wrap=True)

Override = Annotated[list[str] | None, typer.Option(help="A Hydra override, such as steps=500; may be repeated.")]


@app.command("compile")
def compile_pipeline(
    output: Annotated[Path, typer.Option(help="The YAML package to write.")] = Path("train-latent-diffusion.yaml"),
) -> None:
    """Compile the pipeline for Kubeflow. The image is DARKROOM_IMAGE."""
    from kfp_pipelines.pipeline import compile_to

    if not output.parent.is_dir():
        raise CommandError(f"--output: the folder {output.parent} does not exist")
    compile_to(output)
    console.print(str(output.resolve()))


@app.command("run")
def run_pipeline(
    data: Annotated[str, typer.Option(help="digits, shapes, or images: your own, see --data-override.")] = "digits",
    autoencoder_experiment: Annotated[str, typer.Option(help="A file of training/configs/experiment.")] = (
        "digits_autoencoder"
    ),
    diffusion_experiment: Annotated[str, typer.Option(help="A file of training/configs/experiment.")] = (
        "digits_diffusion"
    ),
    data_override: Annotated[
        list[str] | None, typer.Option(help="Of the data, such as data.root=PICTURES; may be repeated.")
    ] = None,
    autoencoder_override: Override = None,
    diffusion_override: Override = None,
    evaluation_images: Annotated[int, typer.Option(help="Images that the model is judged by.", min=1)] = 1000,
    alias: Annotated[str, typer.Option(help="The alias to point at both releases.")] = "production",
) -> None:
    """Run the pipeline on this machine and publish both releases."""
    connect("publisher")  # before training for minutes, see that publishing will find its way
    arguments = {
        "data": data,
        "data_overrides": data_override or [],
        "autoencoder_experiment": autoencoder_experiment,
        "diffusion_experiment": diffusion_experiment,
        "autoencoder_overrides": autoencoder_override or [],
        "diffusion_overrides": diffusion_override or [],
        "evaluation_images": evaluation_images,
        "alias": alias,
    }
    execute(arguments, console)


def execute(arguments: dict[str, Any], console: Console) -> list[tuple[str, float]]:
    """Run the pipeline with its progress shown. Returns each stage's name and seconds."""
    import os

    from kfp_pipelines import local

    os.environ[ROOT_VARIABLE] = str(root())  # the stages find the same stack, wherever they run
    stages: list[tuple[str, float]] = []
    began = time.monotonic()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("starting the pipeline")
        current: str | None = None

        def end_stage() -> None:
            nonlocal began
            if current is not None:
                stages.append((current, time.monotonic() - began))
                progress.console.print(f"  {current:24}{stages[-1][1]:7.1f} s")
            began = time.monotonic()

        def on_stage(name: str) -> None:
            nonlocal current
            end_stage()
            current = name
            progress.reset(bar)
            progress.update(bar, description=name)

        def on_line(line: str) -> None:
            if current is not None and (step := _step_of(line)):
                progress.update(bar, description=f"{current}  {step}")

        try:
            local.run(arguments, root() / "pipeline", on_stage=on_stage, on_line=on_line)
        except local.PipelineError as error:
            raise CommandError(str(error)) from None
        end_stage()
    return stages


def _step_of(line: str) -> str:
    """The progress that a stage reports, from a line of its output; empty for other lines."""
    import re

    match = re.search(r"step\s+(\d+)\s*/\s*(\d+).*", line)
    return match[0] if match else ""
