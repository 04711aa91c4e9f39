"""Export of noise schedules, as DDIMScheduler or, for flow matching, as FlowMatchEulerDiscreteScheduler."""

from training.model.diffusion import DiffusionConfig
from training.model.interop.huggingface.component import Component, check_expressible, model_config

HANDLED = ("schedule", "beta_start", "beta_end", "timesteps", "parameterisation", "zero_terminal_snr")
SCHEDULES = {"scaled_linear": "scaled_linear", "linear": "linear", "cosine": "squaredcos_cap_v2"}
PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}


def first_timestep(config: DiffusionConfig) -> int:
    """Return the number that diffusers gives the first timestep: flow matching counts from 1."""
    return 1 if config.schedule == "flow" else 0


def scheduler_component(config: DiffusionConfig) -> Component:
    """Export a schedule with DDIM as the released models use it: timesteps i (T // S) + 1, ending at timestep 0.

    With zero_terminal_snr the timesteps are trailing instead, because sampling has to start from the pure noise at the
    schedule's end (Lin et al. 2024, section 3.3). Raises ExportError naming the field that diffusers cannot express.
    """
    check_expressible("diffusion", config, HANDLED)
    if config.schedule == "flow":
        name = "FlowMatchEulerDiscreteScheduler"
        return Component(
            "diffusers",
            name,
            model_config(name, num_train_timesteps=config.timesteps, shift=1.0),
            config_file="scheduler_config.json",
        )
    return Component(
        "diffusers",
        "DDIMScheduler",
        model_config(
            "DDIMScheduler",
            num_train_timesteps=config.timesteps,
            beta_schedule=SCHEDULES[config.schedule],
            beta_start=config.beta_start,
            beta_end=config.beta_end,
            rescale_betas_zero_snr=config.zero_terminal_snr,
            prediction_type=PREDICTIONS[config.parameterisation],
            clip_sample=False,  # latents are not bounded
            set_alpha_to_one=config.zero_terminal_snr,
            steps_offset=1,
            timestep_spacing="trailing" if config.zero_terminal_snr else "leading",
        ),
        config_file="scheduler_config.json",
    )
