"""What the host does in a step: it asks the device for nothing, and keeps few things on it."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from training.model.batch import Batch, Run
from training.model.guidance import Guidance
from training.model.latent_diffusion import LatentDiffusion, Prepared
from training.model.noise import seeded_noise
from training.model.noise_ahead import NoiseAhead
from training.model.sampling import Sampler, trajectory
from training.model.trajectory_table import COLUMNS, FIRST_CAPACITY, WAITS, TrajectoryTable, columns

SHAPE = (2, 8, 8)
WAITING = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "item"}  # operators that answer the host


class ForbidWaiting(TorchDispatchMode):
    """Raises if the host needs an operator's answer."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        assert name not in WAITING, f"{name}: the host waits for the device"
        return function(*args, **(kwargs or {}))


def runs(model: LatentDiffusion, count: int = 4) -> list[Run]:
    null = model.conditions([None], (8, 8)).row(0)
    guidance = [Guidance(2.0), Guidance(3.0, interval=(0.2, 0.7)), Guidance(4.0, rescale=0.7), Guidance()]
    return [
        Run(
            seed=i,
            trajectory=trajectory(model, Sampler(("ddpm", "unipc", "heun")[i % 3], steps=3)),
            start=seeded_noise(i, 0, SHAPE),
            conditions=model.conditions([{"class_label": i % 3}], (8, 8)).row(0),
            null=null,
            guidance=guidance[i % 4],
        )
        for i in range(count)
    ]


def test_a_step_asks_the_device_for_nothing(latent_diffusion: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host can prepare a step while the device computes the one before."""

    def predict(x: Tensor, t: Tensor, conditions: Prepared, numbers: None) -> Tensor:
        return x

    monkeypatch.setattr(latent_diffusion, "predict", predict)
    batch, waiting = Batch(latent_diffusion, rows=6, shape=SHAPE), runs(latent_diffusion)
    with torch.inference_mode(), ForbidWaiting():
        for run in waiting[:3]:
            batch.join(run)
        batch.step()
        batch.join(waiting[3])
        while batch.runs:
            batch.step()
            for run in batch.finished:
                batch.leave(run)


def test_the_guard_finds_a_question_to_the_device() -> None:
    with ForbidWaiting(), pytest.raises(AssertionError, match="the host waits for the device"):
        bool(torch.zeros(3).any())


def test_runs_continue_when_the_table_of_trajectories_is_made_again(
    latent_diffusion: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finish() -> list[Tensor]:
        batch, left = Batch(latent_diffusion, rows=4, shape=SHAPE), {}
        waiting = runs(latent_diffusion, count=9)
        order = list(waiting)
        while waiting or batch.runs:
            if waiting and batch.free_rows >= 2:
                batch.join(waiting.pop(0))
            batch.step()
            for run in batch.finished:
                left[run] = batch.leave(run)
        return [left[run] for run in order]

    expected = finish()
    monkeypatch.setattr("training.model.trajectory_table.FIRST_CAPACITY", 8)
    for found, wanted in zip(finish(), expected, strict=True):
        assert torch.equal(found, wanted)


def test_a_trajectory_is_copied_once_and_found_by_its_entry(latent_diffusion: LatentDiffusion) -> None:
    table = TrajectoryTable(torch.device("cpu"))
    one, two = (trajectory(latent_diffusion, Sampler("unipc", steps=steps)) for steps in (3, 5))
    first, second = table.add(one), table.add(two)
    assert table.add(one) == first
    assert second == first + len(one)
    entries = torch.tensor([first + 2, second, WAITS], dtype=torch.int32)
    found = table.look_up(entries)
    assert torch.equal(found[:2], torch.stack([columns(one)[2], columns(two)[0]]))
    assert torch.equal(found[2, 4:], torch.eye(5, 7).flatten()), "a slot that waits keeps its state"
    alpha, sigma = latent_diffusion.diffusion.alpha_sigma(torch.from_numpy(two.t), torch.zeros(1))
    assert torch.equal(columns(two)[:, 1:3], torch.stack([alpha, sigma], dim=1))
    assert columns(two).shape == (len(two), COLUMNS)


def test_a_full_table_keeps_the_trajectories_in_use_alone(latent_diffusion: LatentDiffusion) -> None:
    table = TrajectoryTable(torch.device("cpu"))
    paths = [trajectory(latent_diffusion, Sampler(steps=900)) for _ in range(1 + FIRST_CAPACITY // 900)]
    for path in paths[:-1]:
        table.add(path)
    with pytest.raises(KeyError):
        table.add(paths[-1])
    table.rebuild(paths[-2:])
    entry = table.add(paths[-1])
    assert torch.equal(table.look_up(torch.tensor([entry + 899])), columns(paths[-1])[899:])


def test_noise_is_the_same_whether_it_was_expected_or_not() -> None:
    noise = NoiseAhead(4, SHAPE, torch.device("cpu"))
    wanted = {0: (7, 1), 2: (9, 3)}
    for expected in ({}, wanted, {0: (7, 1), 1: (5, 5), 2: (9, 2)}):
        noise.expect(expected)
        found = noise.take(wanted)
        for slot, (seed, index) in wanted.items():
            assert torch.equal(found[slot], seeded_noise(seed, index, SHAPE))
        assert found.isfinite().all()


def test_noise_that_is_drawn_ahead_leaves_the_present_one_alone() -> None:
    noise = NoiseAhead(2, (4, 64, 64), torch.device("cpu"))
    present = noise.take({0: (1, 1), 1: (2, 1)})
    noise.expect({0: (1, 2), 1: (2, 2)})
    following = noise.take({0: (1, 2), 1: (2, 2)})
    assert torch.equal(present[1], seeded_noise(2, 1, (4, 64, 64)))
    assert torch.equal(following[1], seeded_noise(2, 2, (4, 64, 64)))
