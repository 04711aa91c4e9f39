"""`darkroom tune`: measures with how many rows a release should be served on this device."""

from typing import Annotated, Literal

import typer

from services.cli.evaluate import open_release
from services.cli.session import AsJson, ReleaseArgument
from services.cli.terminal import print_json, print_table
from services.errors import CommandError

Profile = Literal["auto", "fp32", "fp32-compiled", "bf16", "bf16-compiled"]


def tune(
    release: ReleaseArgument,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="The device, as DARKROOM_DEVICE.")] = "auto",
    profile: Annotated[Profile, typer.Option(help="The profile, as DARKROOM_PROFILE.")] = "auto",
    most: Annotated[int, typer.Option(help="The most rows to try.", min=2, max=1024)] = 256,
    as_json: AsJson = False,
) -> None:
    """Measure a release by number of rows, and recommend one.

    Steps, decoding and memory are measured with 2, 4, 8 and so on rows, until memory is used up. The rate is for
    images with the release's default steps and guidance, in a full batch. Nothing else should use the device.
    """
    from services.job_requests.image_spec import ImageSpec, image_cost
    from services.job_requests.schema import defaults_of
    from services.worker.device import check_device
    from services.worker.tuning import best_of, measure
    from training.model.release import read

    check_device(device)
    with open_release(release) as folder:
        description = read(folder)
        if description.kind != "diffusion":
            raise CommandError(f"{release}: a release of kind {description.kind}; permitted: diffusion")
        usual = defaults_of(description.conditions)
        steps = int(usual["steps"])
        low, high = usual["guidance_interval"]
        image = ImageSpec(0, 0, 0, steps, usual["solver"], usual["guidance_scale"], usual["spacing"], (low, high))
        rows_an_image = image_cost(image) / steps
        usages = list(measure(folder, device=device, profile=profile, most=most))
    if not usages:
        raise CommandError(f"{release}: the device has no memory for 2 rows; use one with more memory")
    best = best_of(usages, steps, rows_an_image)
    values = {"rows": best.rows, "profile": profile, "device": best.profile.partition("/")[0]}
    if as_json:
        measured = [
            {
                "rows": usage.rows, "step_s": usage.step_s,
                "decode_rows": usage.decode_rows, "decode_s": usage.decode_s,
                "memory_bytes": usage.memory, "images_per_s": usage.images_per_second(steps, rows_an_image),
            }
            for usage in usages
        ]  # fmt: skip
        print_json({"profile": best.profile, "steps": steps, "rows_an_image": rows_an_image, "measured": measured,
                    "best_rows": best.rows, "values": values})  # fmt: skip
        return
    print_table(
        ["rows", "step, ms", "decoding an image, ms", "memory, GiB", f"images/s at {steps} steps", ""],
        [
            [
                str(usage.rows), f"{usage.step_s * 1e3:.1f}", f"{usage.decode_s / usage.decode_rows * 1e3:.1f}",
                f"{usage.memory / 2**30:.2f}", f"{usage.images_per_second(steps, rows_an_image):.2f}",
                "best" if usage is best else "",
            ]
            for usage in usages
        ],
    )  # fmt: skip
    typer.echo(f"\n{best.profile}\nValues of the chart:\n\nworkerPools:\n  default:")
    for name, value in values.items():
        typer.echo(f"    {name}: {value}")
