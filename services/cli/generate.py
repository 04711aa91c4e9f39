"""`darkroom generate`: a sheet of images of a release, by the service or within this process."""

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.session import AsJson, connect
from services.cli.terminal import print_json
from services.errors import EXIT_NOT_SUCCEEDED, CommandError

if TYPE_CHECKING:
    from services.registry.releases import ReleaseRow

FIRST_CLASSES = 10  # that are sampled if none is given
NEXT_ALIAS = "candidate"  # that a bare name means where nothing is in production


def generate(
    model: Annotated[str, typer.Argument(help="The release: name, name@alias or name@version.")],
    label: Annotated[list[str] | None, typer.Option("--class", help="A class; may be repeated.")] = None,
    caption: Annotated[list[str] | None, typer.Option(help="A caption; may be repeated.")] = None,
    count: Annotated[int, typer.Option(help="The number of images.", min=1, max=1024)] = 16,
    steps: Annotated[
        int | None, typer.Option(help="Steps of the solver; default: the service's.", min=1, max=1000)
    ] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; default: the service's.")] = None,
    image_size: Annotated[
        str | None, typer.Option(metavar="WIDTHxHEIGHT", help="The size of the images; default: the release's.")
    ] = None,
    decoder: Annotated[
        str | None, typer.Option(metavar="full|light", help="The decoder of the images; default: the release's.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The seed; default: a random one.", min=0)] = None,
    output: Annotated[Path | None, typer.Option(help="The PNG to write; default: NAME.png.")] = None,
    scale: Annotated[int, typer.Option(min=1, max=16, help="Enlargement factor.")] = 2,
    local: Annotated[bool, typer.Option("--local", help="Sample within this process, without the service.")] = False,
    as_json: AsJson = False,
) -> None:
    """Sample images of a release, as a contact sheet.

    Without a class or a caption, the first classes are sampled. What is missing of the local stack is started.
    """
    from services.cli.stack import start_if_local

    start_if_local()
    _, engine = connect("publisher")
    with engine.connect() as connection:
        release = find_release(connection, model)
    request = build_request(release, label or [], caption or [], count)
    request |= {"seed": secrets.randbelow(2**31) if seed is None else seed}
    request |= {} if steps is None else {"steps": steps}
    request |= {} if guidance is None else {"guidance_scale": guidance}
    request |= {} if decoder is None else {"decoder": decoder}
    request |= {} if image_size is None else {"size": parse_size(image_size)}
    path = output or Path(f"{release.name}.png")
    sample = sample_here if local else sample_by_service
    answer = sample(release, request, path, scale, show_progress=not as_json)
    if as_json:
        print_json({"release": f"{release.name}@{release.version}", "path": str(path.resolve()), **answer})
    else:
        typer.echo(path.resolve())


def find_release(connection: Any, model: str) -> "ReleaseRow":
    """Return a diffusion release. A bare name means what is in production, else the candidate. Raises RegistryError."""
    from services.registry import releases

    release = None
    if "@" not in model and releases.find_by_alias(connection, model, releases.DEFAULT_ALIAS) is None:
        release = releases.find_by_alias(connection, model, NEXT_ALIAS)
    release = release or releases.find(connection, model)
    if release.kind != "diffusion":
        raise CommandError(f"model: {model} is of kind {release.kind}; permitted: a diffusion release")
    return release


def build_request(release: "ReleaseRow", labels: Sequence[str], captions: Sequence[str], count: int) -> dict[str, Any]:
    """Return a request with an item for each class or caption. Raises CommandError for conditions it cannot give."""
    fields = {name: one["type"] for name, one in release.manifest["architecture"]["conditioners"].items()}
    required = set(release.manifest["conditions"].get("required", ()))
    by_class = next((name for name, kind in fields.items() if kind == "class"), None)
    by_text = next((name for name, kind in fields.items() if kind in ("text", "frozen_text")), None)
    if others := required - {by_class, by_text}:
        raise CommandError(f"model: {release.name} needs {', '.join(sorted(others))}; submit a job that gives them")
    for option, given, field in (("--class", labels, by_class), ("--caption", captions, by_text)):
        if given and field is None:
            permitted = ", ".join({by_class: "--class", by_text: "--caption"}[name] for name in fields) or "neither"
            raise CommandError(f"{option}: {release.name} is sampled without it; permitted: {permitted}")
    if (wanted := max(1, len(labels)) * max(1, len(captions))) > count:
        raise CommandError(f"--count: {count} is not allowed; permitted: at least {wanted}, one of each class and "
                           "caption that is given")  # fmt: skip
    if by_text in required and not captions:
        raise CommandError(f"--caption: {release.name} is sampled by caption; give one, such as --caption 'a red boot'")
    values: list[dict[str, Any]] = [{}]
    if by_text is not None and captions:
        values = [{by_text: text} for text in captions]
    if by_class is not None and (labels or by_class in required):
        chosen = [
            int(text) if text.isdecimal() and text not in names_of(release, by_class) else text for text in labels
        ]
        values = [
            {**one, by_class: label} for one in values for label in chosen or first_classes(release, by_class, count)
        ]
    return {"items": values[:count], "images_per_item": max(1, count // len(values[:count]))}


def parse_size(text: str) -> list[int]:
    """Return width and height. Raises CommandError."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise CommandError(f"--image-size: {text!r} is not allowed; permitted: WIDTHxHEIGHT in pixels, such as 80x48")
    return [int(width), int(height)]


def names_of(release: "ReleaseRow", field: str) -> list[str]:
    """Return the names of the classes; empty if they have none."""
    rule = release.manifest["conditions"]["properties"][field]
    return next((list(part["enum"]) for part in rule.get("anyOf", ()) if "enum" in part), [])


def first_classes(release: "ReleaseRow", field: str, count: int) -> list[Any]:
    """Return the first classes, by name if they have names."""
    number = release.manifest["architecture"]["conditioners"][field]["classes"]
    return list(names_of(release, field) or range(number))[: min(FIRST_CLASSES, count)]


def name_items(request: Mapping[str, Any]) -> list[str]:
    """Return what each item of a request asks for, in words: its class and its caption."""
    return [", ".join(str(value) for value in item.values()) for item in request["items"]]


def sample_by_service(
    release: "ReleaseRow", request: dict[str, Any], path: Path, scale: int, *, show_progress: bool
) -> dict[str, Any]:
    """Submit a job, wait for it and write its sheet. Raises CommandError."""
    from services.cli.contact_sheet import write_job_sheet
    from services.cli.job_access import wait_for_job
    from services.cli.stack import start_processes_if_local
    from services.job_queue import clients

    start_processes_if_local()
    settings, engine = connect("submitter")
    with engine.begin() as connection:
        job = {"model": f"{release.name}@{release.version}", "request": request}
        job_id = str(clients.submit_job(connection, job))
    row = wait_for_job(engine, job_id, show_progress=show_progress)
    if not row.has_succeeded:
        typer.echo(f"job {job_id} {row.state}: {row.reason or ''}", err=True)
        raise typer.Exit(EXIT_NOT_SUCCEEDED)
    write_job_sheet(settings, engine, row, path, scale=scale, names=name_items(request))
    return {"job": job_id, "images": row.succeeded}


def sample_here(
    release: "ReleaseRow", request: dict[str, Any], path: Path, scale: int, *, show_progress: bool
) -> dict[str, Any]:
    """Sample within this process the images that the service would make, and write the sheet. Raises RequestError."""
    from services.cli.contact_sheet import contact_sheet, label
    from services.cli.local_sampling import sample_images
    from services.job_requests.schema import Limits, plan_request
    from services.registry.releases import request_rules

    plan = plan_request(request, request_rules(release.manifest), Limits(("out",)))
    images = list(enumerate(sample_images(release.manifest, plan, show_progress=show_progress)))
    per_item = plan["images_per_item"]
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = per_item if 1 < per_item < len(images) else min(16, len(images))
    sheet = contact_sheet(images, columns=columns, scale=scale)
    if columns == per_item and len(plan["items"]) > 1:
        sheet = label(sheet, name_items(request), [""] * columns)
    sheet.save(path, format="PNG")
    return {"images": len(images)}
