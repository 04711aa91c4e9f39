from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from training.data import degradations
from training.data.degradations import KINDS, STRENGTHS, Step, Task, degrade

BLIND = tuple(STRENGTHS)
DRAWS = 200


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def texture() -> NDArray[np.uint8]:
    """[128, 128, 3]: waves of 8 to 40 pixels in every direction."""
    generator = seeded()
    y, x = np.mgrid[:128, :128]
    image = np.zeros((128, 128, 3))
    for _ in range(40):
        angle, length, phase = generator.uniform((0, 8, 0), (np.pi, 40, 2 * np.pi))
        wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / length + phase)
        image += generator.uniform(0, 10, 3) * wave[..., None]
    return np.clip(128 + image, 0, 255).astype(np.uint8)


def high_pass(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    grey = image.mean(axis=2)
    return 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]


@pytest.mark.parametrize("kind", KINDS)
def test_equal_states_of_the_generator_give_equal_bytes(texture: NDArray[np.uint8], kind: str) -> None:
    before = texture.copy()
    for seed in range(10):
        assert (degrade(texture, 4, kind, seeded(seed)) == degrade(texture, 4, kind, seeded(seed))).all()
    assert (texture == before).all()


@pytest.mark.parametrize("kind", BLIND)
def test_no_two_draws_are_alike(texture: NDArray[np.uint8], kind: str) -> None:
    generator = seeded()
    assert len({degrade(texture, 4, kind, generator).tobytes() for _ in range(20)}) == 20


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("height", "width", "scale"), [(64, 64, 4), (48, 96, 2), (33, 66, 3), (16, 32, 8), (16, 16, 1), (4, 4, 4)]
)
def test_the_sides_shrink_by_the_scale(kind: str, channels: int, height: int, width: int, scale: int) -> None:
    image = seeded().integers(0, 256, (height, width, channels), dtype=np.uint8)
    for seed in range(10):
        small = degrade(image, scale, kind, seeded(seed))
        assert small.shape == (height // scale, width // scale, channels)
        assert small.dtype == np.uint8
        assert small.flags.writeable


def test_bicubic_is_pillows_and_draws_nothing(texture: NDArray[np.uint8]) -> None:
    generator = seeded()
    small = degrade(texture, 4, "bicubic", generator)
    assert (small == np.asarray(Image.fromarray(texture).resize((32, 32), Image.Resampling.BICUBIC))).all()
    grey = degrade(texture[:64, :, :1], 2, "bicubic", generator)[..., 0]
    assert (grey == np.asarray(Image.fromarray(texture[:64, :, 0]).resize((64, 32), Image.Resampling.BICUBIC))).all()
    assert generator.random() == seeded().random()


def test_bsr_is_further_from_bicubic_than_bsr_light(texture: NDArray[np.uint8]) -> None:
    clean = degrade(texture, 4, "bicubic", seeded()).astype(np.float64)
    noise_ratios = {
        kind: [
            10 * np.log10(255**2 / np.square(degrade(texture, 4, kind, seeded(seed)) - clean).mean())
            for seed in range(40)
        ]
        for kind in BLIND
    }
    assert 15 < np.mean(noise_ratios["bsr"]) + 3 < np.mean(noise_ratios["bsr_light"]) < 40


def test_bsr_keeps_less_detail_than_bsr_light(texture: NDArray[np.uint8]) -> None:
    detail = high_pass(degrade(texture, 4, "bicubic", seeded()))

    def kept(kind: str) -> float:  # the slope of a regression, to which noise adds nothing
        found = [high_pass(degrade(texture, 4, kind, seeded(seed))) for seed in range(40)]
        return float(np.mean([(one * detail).sum() / (detail**2).sum() for one in found]))

    assert kept("bicubic") == pytest.approx(1)
    assert 0.2 < kept("bsr") + 0.1 < kept("bsr_light") < 0.95


def test_bsr_is_noisier_than_bsr_light() -> None:
    flat = np.full((128, 128, 3), 128, np.uint8)
    noise = {kind: np.mean([degrade(flat, 4, kind, seeded(seed)).std() for seed in range(40)]) for kind in KINDS}
    assert noise["bicubic"] == 0
    assert 0.2 < noise["bsr_light"] < 2
    assert 4 < noise["bsr"] < 25


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_flat_picture_keeps_its_mean(kind: str, channels: int) -> None:
    flat = np.full((128, 128, channels), 100, np.uint8)
    means = [degrade(flat, 2, kind, seeded(seed)).mean(axis=(0, 1)) for seed in range(20)]
    assert np.abs(np.array(means) - 100).max() < 4
    assert np.abs(np.mean(means, axis=0) - 100).max() < 1


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", degradations.SHRINKS)
def test_shrinking_moves_nothing(name: str, scale: int) -> None:
    """A pixel of a ramp stays the mean of what it stands for, across and down, save for the box filter's rounding."""
    row = np.linspace(0.1, 0.9, 96, dtype=np.float32)
    ramp = np.stack([np.tile(row, (96, 1)), np.tile(row[:, None], (1, 96))], axis=2)
    size = 96 // scale, 96 // scale
    task = Task(STRENGTHS["bsr"], scale, size)
    wanted = ramp.reshape(size[0], scale, size[1], scale, 2).mean(axis=(1, 3))
    errors = []
    for seed in range(30):
        generator = seeded(seed)
        shrunk = degradations.STEPS["fit"](degradations.SHRINKS[name](ramp, task, generator), task, generator)
        middle = slice(size[0] // 3, 2 * size[0] // 3)  # mirrored edges bend the ends of the ramp
        errors.append((shrunk - wanted)[middle, middle].mean(axis=(0, 1)) * 96 / 0.8)  # in pixels
    assert np.abs(errors).max() < 1.5
    assert np.abs(np.mean(errors, axis=0)).max() < 0.25


@pytest.mark.parametrize("name", degradations.BLURS)
def test_a_blur_keeps_the_centre_and_the_sum(name: str) -> None:
    point = np.zeros((65, 65, 1), np.float32)
    point[32, 32] = 1
    y, x = np.mgrid[-32:33, -32:33]
    for kind in BLIND:
        for seed in range(20):
            blurred = degradations.BLURS[name](point, Task(STRENGTHS[kind], 4, (16, 16)), seeded(seed))[..., 0]
            assert blurred.sum() == pytest.approx(1, abs=1e-3)
            assert abs((y * blurred).sum()) < 1e-2
            assert abs((x * blurred).sum()) < 1e-2
            assert (y**2 * blurred).sum() <= 8


@pytest.mark.parametrize("name", degradations.NOISES)
def test_noise_is_of_its_sort_and_of_its_level(name: str) -> None:
    task = Task(STRENGTHS["bsr"], 4, (64, 64))
    image = np.full((64, 64, 3), 0.5, np.float32)
    levels = []
    for seed in range(100):
        noise = np.broadcast_to(degradations.NOISES[name](image, task, seeded(seed)), image.shape).reshape(-1, 3) * 255
        levels.append(float(noise.std()))
        between = np.atleast_2d(np.corrcoef(noise.T))[np.triu_indices(3, 1)]
        if name == "colour":
            assert np.abs(between).max() < 0.1
        elif name == "grey":
            assert between.min() > 0.999
    assert min(levels) < 12
    assert 20 < max(levels) < 26


def test_every_step_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given: every step counts itself
    reached: Counter[str] = Counter()

    def counted(name: str, step: Step) -> Step:
        def run(image: NDArray, task: Task, generator: np.random.Generator) -> NDArray:
            reached[name] += 1
            return step(image, task, generator)

        return run

    tables = (degradations.STEPS, degradations.BLURS, degradations.SHRINKS, degradations.NOISES)
    for table in tables:
        for name, step in list(table.items()):
            monkeypatch.setitem(table, name, counted(name, step))
    # When
    image = seeded().integers(0, 256, (32, 32, 3), dtype=np.uint8)
    generator = seeded()
    for _ in range(DRAWS):
        degrade(image, 4, "bsr", generator)
    # Then: each as often as its odds say
    assert set(reached) == {name for table in tables for name in table}
    assert reached["blur"] == 2 * DRAWS
    assert all(reached[name] == DRAWS for name in ("shrink", "fit", "noise", "jpeg"))
    odds = {"isotropic": 1, "anisotropic": 1, "resampled": 0.75, "strided": 0.25}
    for name, share in (odds | {"colour": 0.4, "grey": 0.4, "correlated": 0.2}).items():
        assert reached[name] / DRAWS == pytest.approx(share, abs=0.15), name


@pytest.mark.parametrize("kind", BLIND)
def test_steps_come_in_any_order_but_shrink_before_fit(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    orders, order = set(), []

    def noted(name: str) -> Callable[..., NDArray]:
        def run(image: NDArray, *_: object) -> NDArray:
            order.append(name)
            return image

        return run

    for name in degradations.STEPS:
        monkeypatch.setitem(degradations.STEPS, name, noted(name))
    generator = seeded()
    for _ in range(DRAWS):
        order.clear()
        degrade(np.zeros((8, 8, 3), np.uint8), 4, kind, generator)
        assert sorted(order) == sorted(STRENGTHS[kind].steps)
        assert order.index("shrink") < order.index("fit")
        orders.add(tuple(order))
    assert {names[0] for names in orders} == set(degradations.STEPS) - {"fit"}
    assert {names[-1] for names in orders} == set(degradations.STEPS) - {"shrink"}


@pytest.mark.parametrize("kind", BLIND)
@pytest.mark.parametrize(("scale", "share"), [(2, 0), (3, 0), (4, degradations.HALVE_PROBABILITY), (8, 0)])
def test_a_scale_of_4_begins_with_a_halving_at_times(
    monkeypatch: pytest.MonkeyPatch, kind: str, scale: int, share: float
) -> None:
    seen = []

    def noted(image: NDArray, task: Task, _: np.random.Generator) -> NDArray:
        seen.append((image.shape[0], task.scale))
        return image

    for name in degradations.STEPS:
        monkeypatch.setitem(degradations.STEPS, name, noted)
    generator = seeded()
    for _ in range(DRAWS):
        degrade(np.zeros((24, 24, 3), np.uint8), scale, kind, generator)
    assert set(seen) == {(24, scale)} | ({(12, 2)} if share else set())
    assert seen.count((12, 2)) / len(seen) == pytest.approx(share, abs=0.1)


@pytest.mark.parametrize(
    ("shape", "scale", "kind", "message"),
    [
        ((8, 8, 3), 4, "area", r"^kind: 'area' is not known; permitted: bicubic, bsr, bsr_light$"),
        ((8, 8, 3), 0, "bsr", r"^scale: 0 is not allowed; permitted: at least 1$"),
        ((8, 10, 3), 4, "bicubic", r"^image: 8x10 is not allowed; permitted: multiples of the scale, 4$"),
        ((10, 8, 1), 4, "bsr", r"^image: 10x8 is not allowed; permitted: multiples of the scale, 4$"),
        ((0, 8, 1), 4, "bsr", r"^image: 0x8 is not allowed; permitted: multiples of the scale, 4$"),
        ((8, 8, 4), 4, "bsr", r"^image: the shape \(8, 8, 4\) is not allowed; permitted: \[H, W, 1\], \[H, W, 3\]$"),
        ((8, 8), 4, "bicubic", r"^image: the shape \(8, 8\) is not allowed; permitted: \[H, W, 1\], \[H, W, 3\]$"),
    ],
)
def test_what_cannot_be_degraded_is_named(shape: tuple[int, ...], scale: int, kind: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        degrade(np.zeros(shape, np.uint8), scale, kind, seeded())
