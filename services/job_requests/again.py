"""The request that makes one image of a job again, or variations of it."""

from collections.abc import Mapping
from typing import Any

from services.job_queue.plan import Item
from services.job_requests.chains import request_entry
from services.job_requests.schema import request_schema

NOT_SETTINGS = ("items", "input_uri", "interpolate", "grid", "images_per_item", "seed", "dry_run", "output_prefix")
SETTINGS = tuple(name for name in request_schema({})["properties"] if name not in NOT_SETTINGS)
NOT_OF_ONE = ("id",)  # of an item, which its job's listings name
OF_A_FILE = ("format", "quality", "metadata")  # of `output`; names and archives are of the job
VARIATIONS, VARIED = 0.3, 8  # how far variations are from the image, and how many are made with it


def request_again(plan: Mapping[str, Any], item: Item, index: int, seed: int) -> dict[str, Any]:
    """Return a request for one image: that of an index and a seed of a plan, which need not have its items.

    With the same release it is the same image, but for `variations` of solvers that draw noise at each step.
    """
    k = index % int(plan["images_per_item"])
    settings = {name: plan[name] for name in SETTINGS if name in plan}
    if "format" in settings.get("output", {}):
        del settings["format"]  # planning fills it in
    if "then" in settings:
        settings["then"] = [request_entry(entry) for entry in settings["then"]]
    settings["output"] = {name: value for name, value in settings.get("output", {}).items() if name in OF_A_FILE}
    one = {**{name: value for name, value in item.items() if name not in NOT_OF_ONE}, "seed": seed}
    share = one.pop("variations", settings.pop("variations", None))
    if "seed" in item.get("toward", {}):
        one["toward"] = {**item["toward"], "seed": int(item["toward"]["seed"]) + k}
    elif share is not None and k:
        one |= {"seed": seed - k, "toward": {**item.get("toward", {}), "seed": seed, "share": share}}
    return {"items": [one], **{name: value for name, value in settings.items() if value != {}}}


def request_variations(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request for the image of a request of `request_again`, and others that vary it."""
    return {**request, "images_per_item": VARIED, "variations": VARIATIONS}
