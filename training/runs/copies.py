"""Measures, while a second stage trains, how many of its samples are copies of training images."""

import torch

from training.data.image_set import ImageSet
from training.data.rows import spread
from training.metrics.copies import SAMPLES, STEPS, copied_share, thumbnails
from training.model.sampling import Sampler, generate
from training.recipes.diffusion import DiffusionRecipe
from training.runs.held_out import HeldOutLoss

MOST_TRAINING = 10_000  # images with which samples are compared
BATCH = 32


class CopiedShare:
    """The share of samples that are copies, by `metrics.copies`, with the same seeds and requests at every call.

    The requests are those of held-out images. latent_shape: (C, h, w).
    """

    def __init__(
        self, recipe: DiffusionRecipe, images: ImageSet, held_out: HeldOutLoss, latent_shape: tuple[int, int, int]
    ) -> None:
        self.recipe, self.shape = recipe, latent_shape
        self.requests = [held_out.requests[i % len(held_out.requests)] for i in range(SAMPLES)]
        self.held_out = thumbnails(held_out.images)
        rows = spread(images.rows("train"), MOST_TRAINING)
        parts = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
        self.training = torch.cat([thumbnails(images.pixels(part)) for part in parts])

    @torch.inference_mode()
    def __call__(self) -> float:
        """Sample, and return the share."""
        model = self.recipe.averaged_model()
        parts = []
        for start in range(0, SAMPLES, BATCH):
            requests = self.requests[start : start + BATCH]
            seeds = range(start, start + len(requests))
            made = generate(model, requests, seeds, latent_shape=self.shape, sampler=Sampler(steps=STEPS))
            parts.append(thumbnails(made.clamp(-1, 1)))
        return copied_share(torch.cat(parts), self.held_out, self.training)
