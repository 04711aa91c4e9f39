"""The network against figures that torch-fidelity 0.4.0 gave for the same weights and images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from training.metrics import inception
from training.metrics.inception import Inception


def weights() -> dict[str, Tensor]:
    """Random weights under the names of the published file, none of which is without effect."""
    made = {}
    for i, (name, tensor) in enumerate(sorted(Inception().state_dict().items())):
        if name.endswith("num_batches_tracked"):
            continue
        generator = np.random.Generator(np.random.Philox(key=[0, i]))
        draws = torch.from_numpy(generator.standard_normal(tensor.shape, dtype=np.float32))
        if tensor.ndim > 1:
            made[name] = draws * (2 / tensor[0].numel()) ** 0.5
        else:
            made[name] = 1 + 0.1 * draws.tanh() if name.endswith(("bn.weight", "running_var")) else 0.1 * draws
    return made


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(weights(), path)
    return path


@pytest.fixture(scope="module")
def network(file: Path) -> Inception:
    return inception.load(file)


def images() -> Tensor:
    generator = np.random.Generator(np.random.Philox(key=[1, 0]))
    return torch.from_numpy(generator.integers(0, 256, (2, 3, 32, 40), dtype=np.uint8)).float() / 127.5 - 1


def test_features_and_probabilities_are_those_of_torch_fidelity(network: Inception) -> None:
    features = network.features(images())
    assert features.shape == (2, 2048)
    expected = [[0.4143591821193695, 0.1922139823436737, 0.1442389041185379, 0.24398919939994812],
                [0.4254108965396881, 0.20872794091701508, 0.1366945505142212, 0.2574547827243805]]  # fmt: skip
    torch.testing.assert_close(features[:, :4], torch.tensor(expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features.mean(1), torch.tensor([0.3913690447807312, 0.3947901725769043]))
    torch.testing.assert_close(features.std(1), torch.tensor([0.5063236355781555, 0.509936511516571]))
    probabilities = network.probabilities(features)
    assert probabilities.shape == (2, 1008)
    assert probabilities.argmax(1).tolist() == [497, 497]
    expected = [[0.001310735591687262, 0.0007614133646711707], [0.0013360984157770872, 0.0007503525703214109]]
    torch.testing.assert_close(probabilities[:, :2], torch.tensor(expected), rtol=1e-3, atol=0)


def test_grey_images_are_equal_red_green_and_blue_and_batches_change_nothing(
    network: Inception, monkeypatch: pytest.MonkeyPatch
) -> None:
    grey = images()[:, :1]
    found = network.features(grey)
    monkeypatch.setattr(inception, "BATCH", 1)
    torch.testing.assert_close(found, network.features(grey.expand(-1, 3, -1, -1)))


def test_images_are_resized_as_tensorflow_1_did() -> None:
    row = torch.tensor([0.0, 3.0, 9.0])
    assert (inception.interpolation(3, 6) @ row).tolist() == pytest.approx([0, 1.5, 3, 6, 9, 9])
    assert (inception.interpolation(3, 2) @ row).tolist() == pytest.approx([0, 6])


def test_it_is_named_after_its_file_unless_that_is_the_published_one(
    file: Path, network: Inception, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert network.name == "Inception features of random.pth"
    assert len(network.digest) == 64
    monkeypatch.setattr(inception, "PUBLISHED", network.digest[:8])
    assert inception.load(file).name == "Inception features"


def test_a_missing_other_or_dangerous_file_is_one_line_that_names_the_field(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^inception: .*nowhere cannot be read .*6726825d\.pth is needed$"):
        inception.load(tmp_path / "nowhere")
    cut = tmp_path / "cut.pth"
    cut.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"^--inception: .*cut\.pth is not a file of weights"):
        inception.load(cut, "--inception")
    other = tmp_path / "other.pth"
    torch.save({"fc.weight": torch.zeros(1008, 2048)}, other)
    with pytest.raises(ValueError, match=r"other\.pth holds other weights"):
        inception.load(other)
    code = tmp_path / "code.pth"
    torch.save({"fc.weight": Path("runs when read")}, code)
    with pytest.raises(ValueError, match=r"code\.pth is not a file of weights"):
        inception.load(code)
