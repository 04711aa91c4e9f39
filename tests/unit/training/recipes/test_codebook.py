"""Entries of a codebook that nothing is near are moved to where latents are."""

import pytest
import torch
from torch import nn

from training.model.quantiser import VectorQuantiser
from training.recipes.codebook import CodebookRestarts


def noted(restarts: CodebookRestarts, quantiser: VectorQuantiser, z: torch.Tensor) -> None:
    restarts.note(z, quantiser(z).indices)


def test_the_first_step_lays_the_codebook_out_over_the_latents() -> None:
    torch.manual_seed(0)
    quantiser, restarts = VectorQuantiser(32, 3), CodebookRestarts(32, after=5)
    z = torch.randn(4, 3, 4, 4)
    used = quantiser(z).indices.unique()
    before = quantiser.codebook.weight.clone()
    noted(restarts, quantiser, z)
    restarts.restart(quantiser.codebook, seed=0, step=0)
    moved = torch.ones(32, dtype=torch.bool).index_fill(0, used, False)
    vectors = z.movedim(1, -1).reshape(-1, 3)
    assert torch.equal(quantiser.codebook.weight[~moved], before[~moved])
    assert (torch.cdist(quantiser.codebook.weight[moved], vectors).min(1).values < 1e-6).all()
    assert len(quantiser(z).indices.unique()) >= moved.sum()


def test_only_entries_that_were_idle_for_so_long_are_moved() -> None:
    book = nn.Embedding(3, 1).requires_grad_(False)
    book.weight.copy_(torch.tensor([[0.0], [1.0], [5.0]]))
    restarts = CodebookRestarts(3, after=2)
    restarts.idle.zero_()
    for step in range(3):
        restarts.note(torch.full((1, 1, 1, 2), 0.1), torch.tensor([[[0, min(step, 1)]]]))
        restarts.restart(book, seed=0, step=step)
        assert float(book.weight[2]) == (5.0 if step < 2 else pytest.approx(0.1))
    assert book.weight[:2].flatten().tolist() == [0.0, 1.0]
    assert restarts.idle.tolist() == [0, 0, 0]
    assert "idle" in restarts.state_dict(), "a run that is resumed counts on"


def test_fewer_latents_than_idle_entries_move_as_many_as_there_are() -> None:
    quantiser, restarts = VectorQuantiser(50, 2), CodebookRestarts(50, after=1)
    before = quantiser.codebook.weight.clone()
    z = 3 + torch.rand(1, 2, 2, 2)
    noted(restarts, quantiser, z)
    restarts.restart(quantiser.codebook, seed=0, step=0)
    assert (quantiser.codebook.weight != before).any(1).sum() == 4
