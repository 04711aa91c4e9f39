"""Reading schedulers: what a model was trained with, and how diffusers samples it by default."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from training.model.diffusion import DiffusionConfig
from training.model.interop.huggingface.reading.folders import DiffusersError, refused

SCHEDULES = {"scaled_linear": "scaled_linear", "linear": "linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
PERMITTED: dict[str, tuple[str | None, ...]] = {
    "trained_betas": (None,),
    "beta_schedule": tuple(SCHEDULES),
    "prediction_type": tuple(PREDICTIONS),
    "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
}
SOLVERS = {  # the same update as ours, if nothing else in the configuration changes it
    "DDIMScheduler": "ddim", "DDPMScheduler": "ddpm", "PNDMScheduler": "plms", "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral", "HeunDiscreteScheduler": "heun",
    "DEISMultistepScheduler": "deis", "UniPCMultistepScheduler": "unipc",
    "DPMSolverMultistepScheduler": "dpm_solver_2m",
}  # fmt: skip


class ReadSchedule(NamedTuple):
    """A model's process, and its sampling.

    first_timestep: the number of its first timestep, 0 or with flow matching 1. sampler: the fields of a request that
    sample as diffusers does; {} if no request does, and `reason` says why.
    """

    config: DiffusionConfig
    first_timestep: int
    sampler: dict[str, Any]
    reason: str = ""


def read_schedule(where: str, c: Mapping[str, Any]) -> ReadSchedule:
    """Translate the configuration of a scheduler. Raises DiffusersError naming the field."""
    kind = str(c.get("_class_name", ""))
    if not kind.endswith("Scheduler"):
        raise DiffusersError(f"{where}: _class_name: {kind!r} is not a scheduler; permitted: those of diffusers")
    timesteps = c.get("num_train_timesteps", 1000)
    if type(timesteps) is not int or timesteps < 3:
        raise refused(where, "num_train_timesteps", timesteps, "an integer, at least 3")
    if kind.startswith("FlowMatch") or c.get("prediction_type") == "flow_prediction":
        config = DiffusionConfig("flow", timesteps=timesteps, parameterisation="flow")
        return ReadSchedule(config, 1, *sampling(kind, c, flow=True))
    for name, permitted in PERMITTED.items():
        if name in c and c[name] not in permitted:
            raise refused(where, name, c[name], ", ".join(map(repr, permitted)))
    try:
        config = DiffusionConfig(
            SCHEDULES[c.get("beta_schedule", "linear")],  # type: ignore[arg-type]  # one of the literals
            float(c.get("beta_start", 1e-4)),
            float(c.get("beta_end", 2e-2)),
            timesteps,
            PREDICTIONS[c.get("prediction_type", "epsilon")],  # type: ignore[arg-type]  # one of the literals
            bool(c.get("rescale_betas_zero_snr", False)),
        )
    except (TypeError, ValueError) as error:
        raise DiffusersError(f"{where}: {error}") from None
    return ReadSchedule(config, 0, *sampling(kind, c, flow=False))


def sampling(kind: str, c: Mapping[str, Any], *, flow: bool) -> tuple[dict[str, Any], str]:
    """Return the fields of a request that samples as this scheduler does, or {} and why there is none."""
    if flow:
        return {}, "its timesteps are fractions"
    if kind not in SOLVERS or c.get("algorithm_type") in ("dpmsolver", "sde-dpmsolver"):
        return {}, f"its scheduler is {kind}"
    solver = SOLVERS[kind]
    if kind == "DPMSolverMultistepScheduler":
        solver = "dpm_solver_2m_sde" if c.get("algorithm_type") == "sde-dpmsolver++" else solver
        solver = {2: solver, 3: "dpm_solver_3m"}.get(c.get("solver_order", 2), "")
    for name, permitted in (
        ("clip_sample", (False, None)), ("thresholding", (False, None)), ("skip_prk_steps", (True, None)),
        ("use_karras_sigmas", (False, None)), ("use_beta_sigmas", (False, None)),
        ("use_exponential_sigmas", (False, None)), ("use_lu_lambdas", (False, None)),
        ("euler_at_final", (False, None)), ("solver_type", (None, "midpoint", "bh2", "logrho")),
    ):  # fmt: skip
        if c.get(name) not in permitted:
            return {}, f"its scheduler has {name}: {c[name]!r}"
    if not solver:
        return {}, f"its scheduler has solver_order: {c['solver_order']!r}"
    if kind in ("DDIMScheduler", "DDPMScheduler") and "clip_sample" not in c:
        return {}, "its scheduler clips the estimates of the image"
    spacing = c.get("timestep_spacing", "leading" if kind[:4] in ("DDIM", "DDPM", "PNDM") else "linspace")
    if spacing == "leading":
        offset, to_one = c.get("steps_offset", 0), c.get("set_alpha_to_one", kind != "PNDMScheduler")
        if solver not in ("ddim", "plms") or offset != 1 or to_one:
            return {}, f"its leading timesteps begin at {offset} and end at the {'data' if to_one else 'first level'}"
        spacing = "leading_exact"
    elif spacing != "trailing":
        return {}, f"its timestep_spacing is {spacing!r}"
    return {"solver": solver, "spacing": spacing}, ""
