"""One step of a trajectory, for every row of a batch at once."""

from torch import Tensor


def advance(state: Tensor, denoised: Tensor, noise: Tensor | None, A: Tensor) -> Tensor:
    """Return the next state [R, 5, ...] from state [R, 5, ...], denoised [R, ...], noise [R, ...] and A [R, 5, 7].

    See `solvers` for the meaning of A. noise: None if A multiplies it by 0 in every row. This is a product and a sum,
    not a matrix product: it never uses TF32, and a row's result is the same for any R.
    """
    columns = A.to(state).reshape(*A.shape, *[1] * (state.dim() - 2)).unbind(2)  # [R, 5, 1, ...] each
    latents = [*state.unsqueeze(1).unbind(2), denoised.unsqueeze(1)]  # [R, 1, ...] each
    if noise is not None:
        latents.append(noise.unsqueeze(1))
    after = columns[0] * latents[0]
    for column, latent in zip(columns[1:], latents[1:], strict=False):
        after += column * latent  # not addcmul: whether it fuses depends on a row's position
    return after
