"""Finds samples that are copies of training images.

Images are compared as thumbnails of 16x16 pixels by the distance of their pixels. A copy differs from its original in
details, and the network that is trained cannot choose what counts.
"""

import torch.nn.functional as F
from torch import Tensor

from training.metrics.distributions import nearest

SAMPLES, STEPS = 64, 10  # that are compared while a model trains, and of the solver: three errors are 0.19 at most
SIDE = 16  # of a thumbnail
NEAR = 0.5  # of the median distance of held-out images to their nearest training images


def thumbnails(images: Tensor) -> Tensor:
    """Return images [R, C, H, W] as rows of at most C x 16 x 16 means: [R, D]."""
    side = min(SIDE, *images.shape[2:])
    return F.adaptive_avg_pool2d(images.float().cpu(), side).flatten(1)


def copied_share(samples: Tensor, held_out: Tensor, training: Tensor) -> float:
    """Return how many more samples than held-out images are near to a training image, as a share from -1 to 1.

    All are thumbnails, [R, D]. Near is half the median distance of held-out images to their nearest training images.
    Samples of the distribution of the images give 0 on average, also where training images have duplicates that are
    held out. Samples that are all copies give 1, without such duplicates.
    """
    usual = nearest(held_out, training)[1]
    limit = NEAR * usual.median()
    among_samples = nearest(samples, training)[1] < limit
    return float(among_samples.double().mean() - (usual < limit).double().mean())
