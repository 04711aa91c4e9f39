"""How samples obey the captions of drawn scenes: `python -m tests.benchmarks.captions RELEASE DATA [--guidance G]`.

Counts, by the number of shapes: images that match the whole caption; the shapes, colours and ground in any layout; and
the number of shapes.
"""

import argparse
from collections import Counter
from pathlib import Path

from training.data import image_set, shapes
from training.evaluation import second_stage
from training.evaluation.second_stage import Sampling
from training.model.latent_diffusion import load_diffusion
from training.model.pixels import to_bytes

RELATIONS = (" left of ", " right of ", " above ", " below ")


def parse_caption(caption: str) -> tuple[list[str], str]:
    """Return the shapes of a caption, sorted, and its ground."""
    words, _, ground = caption.rpartition(" on ")
    for relation in RELATIONS:
        words = words.replace(relation, " and ")
    return sorted(one.removeprefix("a ") for one in words.split(" and ")), ground


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("release", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--guidance", type=float, default=2.0)
    options = parser.parse_args()
    model, description = load_diffusion(options.release)
    questions = second_stage.build_requests(description, image_set.read(options.data), options.images)
    sampling = Sampling(options.images, guidance=options.guidance)
    samples = to_bytes(second_stage.generate(model, description, questions.requests, sampling))
    counts: dict[str, Counter[int]] = {name: Counter() for name in ("captions", "all", "shapes", "number")}
    for image, request in zip(samples, questions.requests, strict=True):
        (caption,), seen = request.values(), shapes.read_back(image)
        wanted, ground = parse_caption(caption)
        number = len(wanted)
        counts["captions"][number] += 1
        counts["all"][number] += shapes.matches(seen, caption)
        counts["shapes"][number] += (sorted(one.name for one in seen.shapes), seen.ground) == (wanted, ground)
        counts["number"][number] += len(seen.shapes) == number
    for number, total in sorted(counts["captions"].items()):
        shares = (f"{name} {100 * counts[name][number] / total:.1f} %" for name in ("all", "shapes", "number"))
        print(f"{number} shapes, {total} captions:", ", ".join(shares))


if __name__ == "__main__":
    main()
