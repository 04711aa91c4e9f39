"""Turns component functions into tasks: on the project image, on the nodes of their profiles."""

from collections.abc import Callable
from functools import cache
from typing import Any

from kfp import dsl

from kfp_pipelines.build import DEFAULT_IMAGE
from kfp_pipelines.profiles import Profiles

STAGES = ("prepare-data", "fetch-autoencoder", "fetch-base", "train-autoencoder", "evaluate-autoencoder",
          "encode-latents", "train-diffusion", "evaluate-diffusion", "gate", "publish-autoencoder",
          "publish-diffusion", "smoke", "promote", "tell-end", "choose")  # fmt: skip


class Stages:
    """Creates the tasks of one pipeline."""

    def __init__(
        self, profiles: Profiles | None = None, *, image: str = DEFAULT_IMAGE, fresh_data: bool = False
    ) -> None:
        """Create tasks that run `image` on the nodes of `profiles`.

        fresh_data: list the images in every run instead of using KFP's cache, as a schedule must.
        """
        self.profiles, self.image, self.fresh_data = profiles or Profiles(), image, fresh_data

    def task(self, stage: str, function: Callable[..., Any], *, cached: bool = True, **inputs: Any) -> dsl.PipelineTask:
        """Return the task of a stage, placed by its profile.

        function: one of `components`. cached: whether KFP may use an earlier result for equal inputs; False for
        stages that read or change what is published. inputs: the function's arguments.
        """
        task = build_component(function, self.image)(**inputs)
        if not cached:
            task.set_caching_options(False)
        return self.profiles.apply(task, stage)


@cache
def build_component(function: Callable[..., Any], image: str) -> dsl.base_component.BaseComponent:
    """Return the KFP component that runs `function` on `image` and installs nothing."""
    return dsl.component(function, base_image=image, install_kfp_package=False, packages_to_install=[])
