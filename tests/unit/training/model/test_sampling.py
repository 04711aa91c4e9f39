"""Sampling: mixed rows, guidance, and runs that start from images."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from training.model import sampling
from training.model.batch import Batch, Run
from training.model.diffusion import Diffusion, DiffusionConfig
from training.model.guidance import Guidance, ImageGuider, guide
from training.model.latent_diffusion import LatentDiffusion, Prepared
from training.model.noise import seeded_noise, slerp
from training.model.sampling import Sampler, generate, trajectory
from training.model.solvers import SOLVERS

SHAPE = (2, 8, 8)


def draw(model: LatentDiffusion, classes: list[int], **options: Any) -> Tensor:
    requests = [{"class_label": k} for k in classes]
    seeds = options.pop("seeds", [10 + k for k in classes])
    return generate(model, requests, seeds, latent_shape=options.pop("latent_shape", SHAPE), **options)


def unconditional(model: LatentDiffusion) -> LatentDiffusion:
    """The same network with a fixed context, as a model without conditions."""
    from training.model.conditioners import Conditioners
    from training.model.unet import UNet, UNetConfig

    torch.manual_seed(1)
    config = UNetConfig(
        in_channels=2, out_channels=2, channels=32, multipliers=(1,), res_blocks=1, attention_factors=()
    )
    unet = UNet(config)
    for parameter in unet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return LatentDiffusion(model.autoencoder, unet, Conditioners(), model.diffusion).eval()


def test_sixteen_mixed_rows_equal_sixteen_single_runs(latent_diffusion: LatentDiffusion) -> None:
    model = latent_diffusion
    names = sorted(SOLVERS)
    null = model.conditions([None], (8, 8)).row(0)

    def run(i: int) -> Run:
        guidance = [Guidance(), Guidance(3.0), Guidance(2.0, interval=(0.2, 0.7)), Guidance(4.0, rescale=0.7)][i % 4]
        path = trajectory(model, Sampler(names[i % len(names)], steps=3 + i // 2, spacing="trailing"))
        conditions = model.conditions([{"class_label": i % 3}], (8, 8)).row(0)
        return Run(i, path, seeded_noise(i, 0, SHAPE), conditions, null, guidance)

    def finish(runs: list[Run], rows: int) -> list[Tensor]:
        batch, latents = Batch(model, rows=rows, shape=SHAPE), {}
        for one in runs:
            batch.join(one)
        while batch.runs:
            batch.step()
            for one in [one for one in batch.runs if one.finished]:
                latents[one] = batch.leave(one)
        return [latents[one] for one in runs]

    with torch.inference_mode():
        together = finish([run(i) for i in range(16)], rows=32)
        crowded = finish([run(i) for i in range(16)], rows=16)  # not all fit at once: some wait at some steps
        alone = [finish([run(i)], rows=2)[0] for i in range(16)]
    for a, b, c in zip(together, crowded, alone, strict=True):
        scale = float(c.abs().max())
        torch.testing.assert_close(a, c, rtol=0, atol=1e-5 * scale)
        torch.testing.assert_close(b, c, rtol=0, atol=1e-5 * scale)


def test_an_image_does_not_depend_on_the_others_in_its_batch(latent_diffusion: LatentDiffusion) -> None:
    options = {"sampler": Sampler("ddpm", steps=3), "guidance": Guidance(2.0)}
    together = draw(latent_diffusion, [0, 1, 2], **options)
    assert together.shape == (3, 1, 16, 16)
    assert float(together.abs().max()) <= 1
    torch.testing.assert_close(together[1:2], draw(latent_diffusion, [1], **options), rtol=0, atol=1e-4)
    assert not torch.allclose(together[0], together[1])


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (Sampler("magic"), "solver: 'magic' is not known; permitted: ddim, ddpm"),
        (Sampler(steps=0), "steps: 0 is not allowed; permitted: an integer from 1 to 1000"),
        (Sampler(spacing="odd"), "spacing: 'odd' is not known; permitted: "),
        (Sampler(eta=2.0), "eta: 2.0 is not allowed"),
        (Sampler("heun", eta=0.5), "eta: 0.5 is not allowed; permitted: 0 to 1, and 0 unless the solver is ddim"),
        (Sampler(strength=0.0), "strength: 0.0 is not allowed"),
        (Sampler(strength=0.5), "images: missing"),
    ],
)
def test_invalid_samplers_are_refused_by_field(
    latent_diffusion: LatentDiffusion, sampler: Sampler, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        draw(latent_diffusion, [0], sampler=sampler)


def test_there_is_no_guidance_outside_its_interval(latent_diffusion: LatentDiffusion) -> None:
    plain = draw(latent_diffusion, [1], sampler=Sampler(steps=4))
    never = draw(latent_diffusion, [1], sampler=Sampler(steps=4), guidance=Guidance(5.0, interval=(0.0, 0.0)))
    torch.testing.assert_close(never, plain, rtol=0, atol=1e-5)
    always = draw(latent_diffusion, [1], sampler=Sampler(steps=4), guidance=Guidance(5.0))
    middle = draw(latent_diffusion, [1], sampler=Sampler(steps=4), guidance=Guidance(5.0, interval=(0.3, 0.6)))
    assert len({float(image.double().sum()) for image in (plain, always, middle)}) == 3


def test_a_guidance_interval_frees_rows(latent_diffusion: LatentDiffusion) -> None:
    batch = Batch(latent_diffusion, rows=4, shape=SHAPE)
    null = latent_diffusion.conditions([None], (8, 8)).row(0)
    path = trajectory(latent_diffusion, Sampler(steps=10))
    guidance = Guidance(3.0, interval=(0.25, 0.75))
    batch.join(Run(0, path, seeded_noise(0, 0, SHAPE), null, null, guidance))
    free = []
    for _ in range(10):
        free.append(batch.free_rows)
        batch.step()
    assert free == [3, 3, 3, 2, 2, 2, 2, 2, 3, 3]  # t = 999, 899, ... 99; the middle half is guided
    assert batch.free_rows == 4


def test_a_run_that_diverges_does_not_change_the_others(latent_diffusion: LatentDiffusion) -> None:
    null = latent_diffusion.conditions([None], (8, 8)).row(0)
    path = trajectory(latent_diffusion, Sampler(steps=3))

    def finish(*starts: Tensor) -> list[Tensor]:
        batch = Batch(latent_diffusion, rows=2, shape=SHAPE)  # one guided run at a time: the others wait
        runs = [Run(i, path, start, null, null, Guidance(2.0)) for i, start in enumerate(starts[:2])]
        for run in runs:
            batch.join(run)
        while not all(run.finished for run in runs):
            batch.step()
        return [batch.leave(run) for run in runs]

    good = seeded_noise(1, 0, SHAPE)
    bad, beside = finish(torch.full(SHAPE, torch.nan), good)
    assert bad.isnan().all()
    assert torch.equal(beside, finish(good)[0])


def test_rescaled_guidance_has_the_conditional_spread() -> None:
    conditional, null = torch.randn(3, 2, 8, 8), torch.randn(3, 2, 8, 8)
    scale, rescale = torch.tensor([6.0, 6.0, 1.0]), torch.tensor([1.0, 0.0, 0.0])
    answer = guide(conditional, null, scale, rescale)
    spread = answer.flatten(1).std(1) / conditional.flatten(1).std(1)
    assert float(spread[0]) == pytest.approx(1.0, abs=1e-5)
    assert float(spread[1]) > 3
    torch.testing.assert_close(answer[2], conditional[2])
    assert torch.equal(guide(conditional, conditional, scale, 0 * rescale), conditional)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": (0.7, 0.2)}, "guidance interval"),
        ({"interval": (0.0, 1.5)}, "0 <= low"),
        ({"rescale": 2.0}, "0 to 1"),
    ],
)
def test_invalid_guidance_is_refused_by_field(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Guidance(2.0, **options)


def test_other_sizes_than_in_training_can_be_sampled(latent_diffusion: LatentDiffusion) -> None:
    assert draw(latent_diffusion, [0], latent_shape=(2, 12, 20), sampler=Sampler(steps=2)).shape == (1, 1, 24, 40)


def test_leading_takes_the_authors_steps_and_their_share_for_an_image(latent_diffusion: LatentDiffusion) -> None:
    """ddim.py takes all of its 31 timesteps for 30 steps; img2img.py takes the last int(strength * 30)."""
    whole = trajectory(latent_diffusion, Sampler("ddim", 30, "leading"))
    share = trajectory(latent_diffusion, Sampler("ddim", 30, "leading", strength=0.75))
    assert whole.t.tolist() == [t + 1 for t in reversed(range(0, 1000, 33))]
    assert share.t.tolist() == whole.t[-22:].tolist()


@pytest.mark.parametrize(("strength", "steps"), [(0.05, 1), (0.5, 10), (0.94, 18), (1.0, 20)])
def test_strength_sets_where_in_the_schedule_an_image_starts(
    latent_diffusion: LatentDiffusion, strength: float, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, image = latent_diffusion, torch.rand(1, 1, 16, 16) * 2 - 1
    known, noise = model.autoencoder.encode(image).detach(), seeded_noise(10, 0, SHAPE)[None]
    seen: list[tuple[Tensor, Tensor]] = []

    def knows_the_image(x: Tensor, t: Tensor, conditions: Prepared, numbers: Tensor | None) -> Tensor:
        seen.append((x[:1], t[:1]))
        alpha, sigma = model.diffusion.alpha_sigma(t, x)
        return (x - alpha * known) / sigma

    monkeypatch.setattr(model, "predict", knows_the_image)
    found = draw(model, [0], sampler=Sampler(steps=20, strength=strength), images=image)
    assert len(seen) == steps
    x, t = seen[0]
    torch.testing.assert_close(x, model.diffusion.diffuse(known, noise, t) if strength < 1 else noise)
    torch.testing.assert_close(found, model.autoencoder.decode(known).clamp(-1, 1).detach(), rtol=0, atol=1e-4)


def test_an_image_of_another_size_is_refused(latent_diffusion: LatentDiffusion) -> None:
    image = torch.zeros(1, 1, 8, 8)
    with pytest.raises(ValueError, match=r"images: their latents are \(2, 4, 4\); wanted \(2, 8, 8\)"):
        draw(latent_diffusion, [0], images=image, sampler=Sampler(strength=0.5))


@pytest.mark.parametrize("solver", ["ddpm", "heun", "dpm_solver_2m"])
def test_inpainting_preserves_the_known_region(
    latent_diffusion: LatentDiffusion, solver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, image = unconditional(latent_diffusion), torch.rand(1, 1, 16, 16) * 2 - 1
    keep = torch.zeros(1, 1, 8, 8)
    keep[..., :4] = 1
    latents: list[Tensor] = []
    decode = model.autoencoder.decode

    def keep_and_decode(z: Tensor) -> Tensor:
        latents.append(z)
        return decode(z)

    monkeypatch.setattr(model.autoencoder, "decode", keep_and_decode)
    generate(model, [{}], [3], latent_shape=SHAPE, sampler=Sampler(solver, steps=4), images=image, keep=keep)
    known = model.autoencoder.encode(image)
    torch.testing.assert_close(latents[0][..., :4], known[..., :4])
    assert not torch.allclose(latents[0][..., 4:], known[..., 4:])


def test_the_image_guider_follows_its_gradient(latent_diffusion: LatentDiffusion) -> None:
    model = copy.deepcopy(unconditional(latent_diffusion)).double()
    guider = ImageGuider(torch.rand(2, 1, 4, 4).double() * 2 - 1, scale=0.7)
    x = torch.randn(2, *SHAPE, dtype=torch.float64)
    path = trajectory(model, Sampler(steps=2))
    conditions = model.conditions([{}], (8, 8)).row(0)
    batch = Batch(model, rows=2, shape=SHAPE)
    batch._state = batch._state.double()
    for i in range(2):
        batch.join(Run(i, path, x[i], conditions))
    found = batch.step(guider)
    t = torch.full((2,), float(path.t[0]), dtype=torch.float64)
    alpha, sigma = model.diffusion.alpha_sigma(t, x)
    empty = model.conditions([{}, {}], (8, 8))

    def likelihood(z: Tensor) -> float:
        return float(guider.log_likelihood(model.autoencoder, model.denoise(z, t, empty)).sum())

    with torch.no_grad():
        direction, h = torch.randn_like(x), 1e-5
        slope = (likelihood(x + h * direction) - likelihood(x - h * direction)) / (2 * h)
        moved = found - model.denoise(x, t, empty)
    assert float((moved * direction * alpha / sigma**2).sum()) == pytest.approx(slope, rel=1e-4)


def test_the_image_guider_brings_samples_closer_to_its_target(latent_diffusion: LatentDiffusion) -> None:
    model = unconditional(latent_diffusion)
    target = torch.full((1, 1, 4, 4), 0.3)

    def distance(scale: float) -> float:
        guider = ImageGuider(target, scale)
        image = generate(model, [{}], [3], latent_shape=SHAPE, sampler=Sampler(steps=8), guider=guider)
        return float((torch.nn.functional.adaptive_avg_pool2d(image, 4) - target).square().mean())

    assert distance(0.3) < distance(0.0)


def test_the_image_guider_leaves_pure_noise_alone(latent_diffusion: LatentDiffusion) -> None:
    """There alpha is 0, and the guided estimate of z_0 would be infinite."""
    model = unconditional(latent_diffusion)
    model.diffusion = Diffusion(DiffusionConfig(schedule="flow", parameterisation="flow"))
    guider = ImageGuider(torch.full((1, 1, 4, 4), 0.3), 0.1)
    image = generate(model, [{}], [3], latent_shape=SHAPE, sampler=Sampler(steps=4), guider=guider)
    assert bool(image.isfinite().all())


def test_on_step_is_called_after_every_evaluation(latent_diffusion: LatentDiffusion) -> None:
    seen: list[tuple[int, tuple[int, ...]]] = []
    sampler = Sampler("heun", steps=3)
    draw(latent_diffusion, [0, 1], sampler=sampler, on_step=lambda i, z: seen.append((i, tuple(z.shape))))
    evaluations = len(sampling.trajectory(latent_diffusion, sampler))
    assert seen == [(i + 1, (2, *SHAPE)) for i in range(evaluations)]


def test_the_initial_noise_may_be_given(latent_diffusion: LatentDiffusion) -> None:
    start = seeded_noise(10, 0, SHAPE)[None]
    given = draw(latent_diffusion, [0], seeds=[99], start=start, sampler=Sampler(steps=3))
    torch.testing.assert_close(given, draw(latent_diffusion, [0], seeds=[10], sampler=Sampler(steps=3)))


def test_slerp_preserves_the_norm_of_noise() -> None:
    a, b = seeded_noise(1, 0, (4, 32, 32)), seeded_noise(2, 0, (4, 32, 32))
    between = slerp(a, b, [0.0, 0.5, 1.0])
    torch.testing.assert_close(between[0], a)
    torch.testing.assert_close(between[2], b)
    assert float(between[1].std()) == pytest.approx(1.0, abs=0.03)
    torch.testing.assert_close(slerp(a, a, [0.3])[0], a)
