"""Which images are held out."""

from collections.abc import Callable

from tests.support.own_images import json_lines, noise_png, preparation_error
from training.data.image_set import ImageSet


def test_records_say_what_is_held_out(make: Callable[..., ImageSet]) -> None:
    splits = ["held_out", "train", "test", None, "validation"]
    records = [{"file_name": f"{n}.png", "split": split} for n, split in enumerate(splits)]
    files = {"metadata.jsonl": json_lines(*records), **{f"{n}.png": noise_png(n) for n in range(5)}}
    made = make(files, held_out=0.9)
    assert [record["name"] for record in made.records] == ["1.png", "3.png", "0.png", "2.png", "4.png"]
    assert made.description.train_count == 2
    everything = [{"file_name": f"{n}.png", "split": "test"} for n in range(5)]
    assert "every image's split is held out" in preparation_error(
        make, files | {"metadata.jsonl": json_lines(*everything)}
    )


def test_pictures_that_are_added_move_no_other(make: Callable[..., ImageSet]) -> None:
    def held(count: int) -> set[str]:
        made = make({f"{n}.png": noise_png(0) for n in range(count)}, held_out=0.2)
        return {made.records[row]["name"] for row in made.rows("held_out")}

    few, many = held(60), held(120)
    assert few == {name for name in many if int(name.removesuffix(".png")) < 60}
    assert 5 <= len(few) <= 20


def test_at_least_one_picture_is_on_each_side(make: Callable[..., ImageSet]) -> None:
    files = {f"{n}.png": noise_png(n) for n in range(3)}
    assert make(files, held_out=0.0).description.train_count == 3
    assert make(files, held_out=1e-9).description.train_count == 2
    assert make(files, held_out=0.999999).description.train_count == 1
    assert make({"a.png": noise_png(1)}, held_out=0.5).description.train_count == 1
