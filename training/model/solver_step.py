"""One step of a trajectory, for every row of a batch at once."""

from torch import Tensor


def advance(state: Tensor, denoised: Tensor, noise: Tensor, A: Tensor) -> Tensor:
    """Return the next state [R, 5, ...] from state [R, 5, ...], denoised [R, ...], noise [R, ...] and A [R, 5, 7].

    See `solvers` for the meaning of A. This is a product and a sum, not a matrix product: it never uses TF32, and a
    row's result is the same for any R.
    """
    A = A.to(state).reshape(*A.shape, *[1] * (state.dim() - 2))  # [R, 5, 7, 1, ...]
    basis = [*state.unbind(1), denoised, noise]
    after = A[:, :, 0] * basis[0][:, None]
    for column, latent in enumerate(basis[1:], start=1):
        after += A[:, :, column] * latent[:, None]  # not addcmul: whether it fuses depends on a row's position
    return after
