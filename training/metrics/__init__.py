"""Metrics of images: distance to a reference (`pixels`), likeness of sets (`distributions`), agreement with conditions.

Two models are compared by `paired` images. Agreement is measured by a `judge` of classes, by reading drawn shapes back
(`conditions`), or by a pretrained network of images and captions (`text_agreement`). Sets are compared in the feature
space of a network: `inception`, or a `classifier` of the set's own images.
"""

from training.metrics.judge import DigitJudge, condition_accuracy
from training.metrics.pixels import distinct_share, mean_psnr, psnr, rms, ssim

__all__ = ["DigitJudge", "condition_accuracy", "distinct_share", "mean_psnr", "psnr", "rms", "ssim"]
