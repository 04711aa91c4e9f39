"""Turns component functions into tasks: on the project image, on the nodes of their profiles."""

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from kfp import dsl, kubernetes

from kfp_pipelines.build import ACCELERATORS_VARIABLE, DEFAULT_IMAGE, IMAGE_VARIABLE, USER
from kfp_pipelines.profiles import QUEUE_LABEL, Profile, Profiles, parse_quantity

STAGES = ("prepare-data", "fetch-autoencoder", "fetch-base", "fetch-teacher", "train-autoencoder",
          "evaluate-autoencoder", "encode-latents", "train-diffusion", "evaluate-diffusion", "train-student",
          "evaluate-student", "gate", "publish-autoencoder", "publish-diffusion", "smoke", "promote", "tell-end",
          "choose")  # fmt: skip
# The forms of quantities that KFP knows. Kubernetes knows more.
KFP_CPU, KFP_MEMORY = r"[0-9]+(\.[0-9]+)?|[0-9]+m", r"[0-9]+([EPTGMK]i|[EPTGM])?"


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
        task.set_env_variable(IMAGE_VARIABLE, self.image)  # recorded with releases, and run by TrainJobs
        # The backend sets the rest of the Pod Security Standard `restricted`, but not who the container runs as.
        kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
        if not cached:
            task.set_caching_options(False)
        task.set_display_name(stage)
        if (profile := self.profiles.for_task(stage)) is not None:
            place(task, profile)
        return task


@cache
def build_component(function: Callable[..., Any], image: str) -> dsl.base_component.BaseComponent:
    """Return the KFP component that runs `function` on `image` and installs nothing."""
    return dsl.component(function, base_image=image, install_kfp_package=False, packages_to_install=[])


def place(task: dsl.PipelineTask, profile: Profile) -> None:
    """Set everything that a profile requests on a task."""
    cpu, memory = for_kfp(profile.cpu, KFP_CPU), for_kfp(profile.memory, KFP_MEMORY)
    task.set_cpu_request(cpu).set_cpu_limit(cpu)
    task.set_memory_request(memory).set_memory_limit(memory)
    if profile.count:
        task.set_accelerator_type(profile.accelerator).set_accelerator_limit(profile.count)
    if profile.count > 1:
        task.set_env_variable(ACCELERATORS_VARIABLE, str(profile.count))  # training uses all of them
    if profile.retries:
        task.set_retry(profile.retries, backoff_duration="60s", backoff_factor=2, backoff_max_duration="3600s")
    kubernetes.set_timeout(task, profile.seconds)
    kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=profile.shm)
    for key, value in profile.nodeSelector.items():
        kubernetes.add_node_selector(task, key, value)
    for toleration in profile.tolerations:
        kubernetes.add_toleration(
            task, toleration.key, toleration.operator, toleration.value, toleration.effect, toleration.tolerationSeconds
        )
    for secret, keys in profile.secrets.items():
        kubernetes.use_secret_as_env(task, secret, keys)
    for name, value in profile.env.items():
        task.set_env_variable(name, value)
    for claim, path in profile.pvc.items():
        kubernetes.mount_pvc(task, claim, path)
    for config_map, path in profile.configMaps.items():
        kubernetes.use_config_map_as_volume(task, config_map, path)
    if profile.imagePullSecrets:
        kubernetes.set_image_pull_secrets(task, profile.imagePullSecrets)
    if profile.ephemeralStorage:
        mount_scratch(task, profile)
    add_node_affinity(task, profile.affinity.get("nodeAffinity", {}))
    if profile.queueName:
        kubernetes.add_pod_label(task, QUEUE_LABEL, profile.queueName)


def for_kfp(quantity: str, known: str) -> str:
    """Return a quantity as it is, or as a plain number if KFP does not know its form, such as `1.5Gi`."""
    return quantity if re.fullmatch(known, quantity) else f"{parse_quantity(quantity):.0f}"


def mount_scratch(task: dsl.PipelineTask, profile: Profile) -> None:
    """Mount a volume of the profile's size at /tmp."""
    size, storage_class = profile.ephemeralStorage, profile.storageClass
    if storage_class:
        kubernetes.add_ephemeral_volume(task, "tmp", "/tmp", ["ReadWriteOnce"], size, storage_class)
    else:
        kubernetes.empty_dir_mount(task, "tmp", "/tmp", size_limit=size)


def add_node_affinity(task: dsl.PipelineTask, affinity: Mapping[str, Any]) -> None:
    """Set the node affinity of a pod's specification on a task."""
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms", ())
    preferred = affinity.get("preferredDuringSchedulingIgnoredDuringExecution", ())
    terms = [(None, term) for term in required] + [(one["weight"], one["preference"]) for one in preferred]
    for weight, term in terms:
        kubernetes.add_node_affinity(task, term.get("matchExpressions"), term.get("matchFields"), weight)
