"""How good images are: near a reference (`pixels`), alike as sets (`distributions`), what was asked for.

What was asked for is found by a `judge` of classes, in drawn shapes themselves (`conditions`), or by how a pretrained
network sees image and caption (`text_agreement`). Sets are compared by the features of a network: `inception`, or a
`classifier` of the set's own images.
"""

from training.metrics.judge import DigitJudge, condition_accuracy
from training.metrics.pixels import distinct_share, psnr, rms, ssim

__all__ = ["DigitJudge", "condition_accuracy", "distinct_share", "psnr", "rms", "ssim"]
