"""`darkroom jobs estimate`: estimates the cost and the times of a job without sampling it."""

from typing import Annotated, Any

import typer

from services.cli.job_access import parse_request, wait_for_job
from services.cli.session import AsJson, connect_database
from services.cli.terminal import print_json, print_table
from services.errors import CommandError


def estimate(
    model: Annotated[str, typer.Option(help="The release: name, name@alias or name@version.")],
    request: Annotated[str, typer.Option(help="The request as JSON, or - to read it from standard input.")],
    queue: Annotated[str, typer.Option(help="The queue.")] = "default",
    priority: Annotated[int, typer.Option(min=-100, max=100, help="Your jobs of higher priorities run first.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Estimate the cost and the end of a job, without sampling images.

    A dispatcher checks the request, with all its lines and images.
    """
    job = {"model": model, "request": {**parse_request(request), "dry_run": True}, "queue": queue, "priority": priority}
    from services.job_queue import clients

    engine = connect_database("submitter")
    with engine.begin() as connection:
        job_id = clients.submit_job(connection, job)
    ended = wait_for_job(engine, str(job_id), show_progress=not as_json)
    if ended.estimate is None:
        raise CommandError(ended.reason or f"job: {job_id} ended {ended.state} without an estimate")
    if as_json:
        print_json(ended.estimate)
    else:
        print_table((), [(name.replace("_", " "), _cell(value)) for name, value in ended.estimate.items()])


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(value)
    if isinstance(value, float):
        return f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
