"""Samples a plan within this process, with the networks, seeds and solvers of the service."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from services.cli.session import connect

if TYPE_CHECKING:
    from services.job_queue.plan import Plan

BATCH = 16


def sample_images(manifest: Mapping[str, Any], plan: "Plan", *, show_progress: bool) -> Iterator[bytes]:
    """Yield the images of a plan as PNG files, in the order of their indices. Downloads the release if needed."""
    import torch
    from rich.console import Console
    from rich.progress import track

    from services.job_requests.class_names import class_number
    from services.job_requests.image_spec import image_spec
    from services.registry.release_cache import ReleaseCache
    from services.storage.object_store import ObjectStore
    from services.worker.encoding import encode_image
    from training.model.guidance import Guidance
    from training.model.latent_diffusion import load_diffusion
    from training.model.pixels import to_bytes
    from training.model.sampling import Sampler, generate

    settings, _ = connect("publisher")
    rules = manifest["conditions"].get("properties", {})
    count = len(plan["items"]) * plan["images_per_item"]
    specs = [image_spec(plan, plan["items"][i // plan["images_per_item"]], i) for i in range(count)]
    with ReleaseCache(ObjectStore.connect(settings), settings.cache_dir, settings.cache_gb).hold(manifest) as folder:
        model, description = load_diffusion(folder)
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    sampler = Sampler(plan["solver"], int(plan["steps"]), plan["spacing"])
    low, high = plan["guidance_interval"]
    guidance = Guidance(float(plan["guidance_scale"]), (low, high), float(plan["guidance_rescale"]))
    console = Console(stderr=True)
    channels, height, width = description.latent_shape
    if specs[0].size is not None:  # one for all of them
        factor = description.image_shape[1] // height
        height, width = specs[0].size[1] // factor, specs[0].size[0] // factor
    starts = track(range(0, count, BATCH), "sampling", console=console, disable=not show_progress, transient=True)
    for start in starts:
        batch = specs[start : start + BATCH]
        requests = [
            {name: class_number(rules[name], plan["items"][spec.item][name]) for name in rules} for spec in batch
        ]
        images = generate(
            model, requests, [spec.seed for spec in batch], latent_shape=(channels, height, width), sampler=sampler,
            guidance=guidance, decoder=specs[0].decoder,
        )  # fmt: skip
        for pixels in to_bytes(images):
            yield encode_image(pixels, "png")
