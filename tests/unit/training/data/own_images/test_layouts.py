"""The layouts in which people keep their images, each with the labels, captions and splits that they mean.

Each set has six images: three cats and three dogs, of which one each is for testing. `NUMBERS` tells them apart.
"""

import gzip
import io
import json
import struct
import unicodedata
import zipfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.support.own_images import (
    Files,
    json_lines,
    noise_png,
    preparation_error,
    read_report,
    write_folder,
    write_tars,
)
from training.data.image_set import ImageSet

PNG = [noise_png(number, (8, 8)) for number in range(6)]
LABELS = ["cat", "cat", "cat", "dog", "dog", "dog"]
TEST = {2, 5}
TEXTS = [f"{label} {number}" for number, label in enumerate(LABELS)]
FLAT = {f"{number}.png": data for number, data in enumerate(PNG)}


def csv(*lines: str) -> bytes:
    return "\n".join(lines).encode()


def rows(form: str) -> list[str]:
    return [form.format(n=n, label=LABELS[n], text=TEXTS[n], split="test" if n in TEST else "train") for n in range(6)]


def names(form: str) -> Files:
    return dict(zip(rows(form), PNG, strict=True))


def content(made: ImageSet) -> dict[int, tuple[str | None, str | None, bool]]:
    """Return the label, the text and whether it is held out of each image, by its number."""
    pixels = {np.asarray(Image.open(io.BytesIO(data))).tobytes(): number for number, data in enumerate(PNG)}
    held = set(made.rows("held_out"))
    found = {}
    for row, record in enumerate(made.records):
        label = made.description.classes[record["label"]] if "label" in record else None
        found[pixels[made.images[row].tobytes()]] = label, record.get("text"), row in held
    return found


def expected(*, labels: bool = False, texts: bool = False, splits: bool = False) -> Any:
    return {n: (LABELS[n] if labels else None, TEXTS[n] if texts else None, splits and n in TEST) for n in range(6)}


LAYOUTS: dict[str, tuple[Files, dict[str, bool]]] = {
    "classes": (names("{label}/{n}.png"), {"labels": True}),
    "a folder in between": (names("emoji/{label}/{n}.png"), {"labels": True}),
    "nested classes": (
        {name if "5" not in name else "dog/old/5.png": data for name, data in names("{label}/{n}.png").items()},
        {"labels": True},
    ),
    "splits": (names("{split}/{n}.png"), {"splits": True}),
    "splits of classes": (names("{split}/{label}/{n}.png"), {"labels": True, "splits": True}),
    "classes of splits": (names("{label}/{split}/{n}.png"), {"labels": True, "splits": True}),
    "splits below a folder, twice": (names("x/{split}/{split}/{label}/{n}.png"), {"labels": True, "splits": True}),
    "splits with metadata each": (
        names("{split}/{n}.png")
        | {
            f"{split}/metadata.jsonl": json_lines(
                *({"file_name": f"{n}.png", "text": TEXTS[n]} for n in range(6) if (n in TEST) == (split == "test"))
            )
            for split in ("train", "test")
        },
        {"texts": True, "splits": True},
    ),
    "splits of other names": (
        {f"{'val2017' if n in TEST else 'Training images'}/{n}.png": PNG[n] for n in range(6)},
        {"splits": True},
    ),
    "domains": (
        {f"{'test' if n in TEST else 'train'}{'A' if n < 3 else 'B'}/{n}.png": PNG[n] for n in range(6)},
        {"splits": True},
    ),
    "captions beside": (FLAT | {f"{n}.txt": TEXTS[n].encode() for n in range(6)}, {"texts": True}),
    ".caption beside": (FLAT | {f"{n}.caption": TEXTS[n].encode() for n in range(6)}, {"texts": True}),
    ".TXT beside": (FLAT | {f"{n}.TXT": TEXTS[n].encode() for n in range(6)}, {"texts": True}),
    "captions in UTF-16": (FLAT | {f"{n}.txt": TEXTS[n].encode("utf-16") for n in range(6)}, {"texts": True}),
    "json beside": (
        FLAT | {f"{n}.json": json.dumps({"caption": TEXTS[n], "class": LABELS[n]}).encode() for n in range(6)},
        {"texts": True, "labels": True},
    ),
    "kohya": (
        names("10_pets/{n}.png") | {f"10_pets/{n}.caption": TEXTS[n].encode() for n in range(6)},
        {"texts": True},
    ),
    "kohya's json": (
        FLAT | {"captions.json": json.dumps({str(n): {"caption": TEXTS[n]} for n in range(6)}).encode()},
        {"texts": True},
    ),
    "metadata.csv": (
        FLAT | {"metadata.csv": csv("file_name,text,label", *rows("{n}.png,{text},{label}"))},
        {"texts": True, "labels": True},
    ),
    "metadata.csv of Excel": (
        FLAT | {"metadata.csv": "\r\n".join(["File Name;Caption", *rows("{n}.png;{text}")]).encode("utf-8-sig")},
        {"texts": True},
    ),
    "metadata.csv with splits": (
        FLAT | {"metadata.csv": csv("image,split,class", *rows("{n}.png,{split},{label}"))},
        {"labels": True, "splits": True},
    ),
    "labels.csv": (FLAT | {"labels.csv": csv("id,label", *rows("{n},{label}"))}, {"labels": True}),
    "labels.csv without a header": (FLAT | {"labels.csv": csv(*rows("{n}.png,{label}"))}, {"labels": True}),
    "captions.tsv": (FLAT | {"captions.tsv": csv("image\tcaption", *rows("{n}.png\t{text}"))}, {"texts": True}),
    "two tables": (
        FLAT
        | {
            "labels.csv": csv("file,label", *rows("{n}.png,{label}")),
            "captions.csv": csv("file,caption", *rows("{n}.png,{text}")),
        },
        {"texts": True, "labels": True},
    ),
    "train.csv and test.csv": (
        names("{split}/{n}.png")
        | {
            "train.csv": csv("id,class", *(f"{n},{LABELS[n]}" for n in range(6) if n not in TEST)),
            "test.csv": csv("id,class", *(f"{n},{LABELS[n]}" for n in TEST)),
        },
        {"labels": True, "splits": True},
    ),
    "prompts in JSON lines": (
        FLAT | {"prompts.jsonl": json_lines(*({"image": f"{n}.png", "prompt": TEXTS[n]} for n in range(6)))},
        {"texts": True},
    ),
    "metadata.json": (
        FLAT | {"metadata.json": json.dumps([{"file": f"{n}.png", "caption": TEXTS[n]} for n in range(6)]).encode()},
        {"texts": True},
    ),
    "StyleGAN's dataset.json": (
        names("0000{n}/img0000{n}.png")
        | {"dataset.json": json.dumps({"labels": [[f"0000{n}/img0000{n}.png", LABELS[n]] for n in range(6)]}).encode()},
        {"labels": True},
    ),
    "COCO's captions": (
        names("train2017/{n}.png")
        | {
            "annotations/captions_train2017.json": json.dumps(
                {
                    "images": [{"id": n, "file_name": f"{n}.png"} for n in range(6)],
                    "annotations": [{"image_id": n, "caption": TEXTS[n]} for n in range(6)],
                }
            ).encode()
        },
        {"texts": True},
    ),
    "backslashes": (
        names("images/{n}.png")
        | {"metadata.jsonl": json_lines(*({"file_name": f"images\\{n}.png", "text": TEXTS[n]} for n in range(6)))},
        {"texts": True},
    ),
    "absolute paths of another machine": (
        names("images/{n}.png")
        | {"metadata.csv": csv("file_name,text", *rows("C:\\Users\\me\\pets\\images\\{n}.png,{text}"))},
        {"texts": True},
    ),
    "names without folders": (
        names("images/{label}/{n}.png") | {"metadata.csv": csv("file_name,text", *rows("{n}.png,{text}"))},
        {"texts": True},
    ),
    "lines with separators of other kinds": (
        FLAT
        | {
            "metadata.jsonl": "".join(
                json.dumps({"file_name": f"{n}.png", "text": f"{TEXTS[n]}"}, ensure_ascii=False) + "\r\n"
                for n in range(6)
            ).encode()
        },
        {"texts": True},
    ),
    "no endings": (names("{label}/{n}"), {"labels": True}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_folders(layout: str, make: Callable[..., ImageSet]) -> None:
    files, what = LAYOUTS[layout]
    found = content(make(files))
    if layout == "domains":
        assert {n: one[2] for n, one in found.items()} == {n: n in TEST for n in range(6)}
        assert [found[n][0] for n in range(6)] == ["A", "A", "A", "B", "B", "B"]
        return
    assert found == expected(**what)


@pytest.mark.parametrize("layout", ["splits of classes", "metadata.csv", "StyleGAN's dataset.json", "two tables"])
def test_a_zip_is_read_as_its_folder(layout: str, make: Callable[..., ImageSet], tmp_path: Path) -> None:
    files, what = LAYOUTS[layout]
    write_zip(tmp_path / "pets.zip", {f"pets/{name}": data for name, data in files.items()})
    made = make(str(tmp_path / "pets.zip"))
    assert content(made) == expected(**what)
    (tmp_path / "folder").mkdir()
    (tmp_path / "pets.zip").rename(tmp_path / "folder/pets.zip")
    assert make(str(tmp_path / "folder")).description == made.description


def write_zip(path: Path, files: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def test_archives_named_after_splits_are_splits(make: Callable[..., ImageSet], tmp_path: Path) -> None:
    for split in ("train", "test"):
        mine = {f"{LABELS[n]}/{n}.png": PNG[n] for n in range(6) if (n in TEST) == (split == "test")}
        (tmp_path / "zips").mkdir(exist_ok=True)
        write_zip(tmp_path / f"zips/pets-{split}.zip", mine)
        write_tars(tmp_path / "tars" / split, mine)
    assert content(make(str(tmp_path / "zips"))) == expected(labels=True, splits=True)
    assert content(make(str(tmp_path / "tars"))) == expected(labels=True, splits=True)


def test_rows_of_the_hub(make: Callable[..., ImageSet]) -> None:
    """Given parquet files of two splits as `datasets` writes them, then labels have the names of the ClassLabel."""
    features = {"image": {"_type": "Image"}, "kind": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    files = {}
    for split in ("train", "test"):
        mine = [n for n in range(6) if (n in TEST) == (split == "test")]
        columns: dict[str, list] = {
            "image": [{"bytes": PNG[n], "path": "same name.png"} for n in mine],
            "kind": [["cat", "dog"].index(LABELS[n]) for n in mine],
            "caption": [TEXTS[n] for n in mine],
        }
        files[f"data/{split}-00000-of-00001.parquet"] = parquet(columns, features)
    made = make(files | {"README.md": b"A set of pets"})
    assert content(made) == expected(labels=True, texts=True, splits=True)
    alone = make({"pets.parquet": parquet({"jpg": [noise_png(1)], "class": ["cat"]})})
    assert alone.description.classes == ("cat",)
    assert [record["name"] for record in alone.records] == ["pets/000000"]
    listed = parquet({"file_name": rows("{n}.png"), "text": TEXTS})
    assert content(make(FLAT | {"metadata.parquet": listed})) == expected(texts=True)


def test_parquet_files_that_are_not_images_are_told(make: Callable[..., ImageSet]) -> None:
    message = preparation_error(make, {"a.parquet": parquet({"x": [1], "y": [2]})})
    assert "a.parquet holds no images: its columns are x, y; an image is bytes, or {bytes, path}" in message
    message = preparation_error(make, {"a.parquet": parquet({"image": [PNG[0]]})[:-20]})
    assert "a.parquet is not a complete parquet file" in message


def parquet(columns: Mapping[str, list], features: Mapping[str, Any] | None = None) -> bytes:
    file = io.BytesIO()
    info = {b"huggingface": json.dumps({"info": {"features": features}}).encode()} if features else None
    pq.write_table(pa.table(columns).replace_schema_metadata(info), file)
    return file.getvalue()


def test_damaged_zips_are_told(make: Callable[..., ImageSet], tmp_path: Path) -> None:
    write_zip(tmp_path / "x.zip", FLAT)
    whole = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(whole[:-30])
    assert "x.zip is not a complete zip" in preparation_error(make, str(tmp_path / "x.zip"))
    (tmp_path / "x.zip").write_bytes(whole[:100] + bytes(50) + whole[150:])
    assert "x.zip is not a complete zip" in preparation_error(make, str(tmp_path / "x.zip"))


def idx(shape: tuple[int, ...], data: bytes) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + data


def test_idx_files_of_mnist(make: Callable[..., ImageSet], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)
    files = {
        "train-images-idx3-ubyte.gz": gzip.compress(idx((3, 8, 8), pixels[:3].tobytes())),
        "train-labels-idx1-ubyte.gz": gzip.compress(idx((3,), bytes([7, 1, 7]))),
        "t10k-images-idx3-ubyte": idx((2, 8, 8), pixels[3:].tobytes()),
        "t10k-labels-idx1-ubyte": idx((2,), bytes([1, 7])),
    }
    made = make(files, channels=1)
    assert np.array_equal(made.images[..., 0], pixels)
    assert [made.description.classes[record["label"]] for record in made.records] == ["7", "1", "7", "1", "7"]
    assert made.description.train_count == 3
    root = write_folder(tmp_path / "one", files)
    assert make(f"{root}/train-images-idx3-ubyte.gz", channels=1).description.count == 3
    cut = {**files, "t10k-images-idx3-ubyte": files["t10k-images-idx3-ubyte"][:-1]}
    assert "t10k-images-idx3-ubyte is not a complete IDX file" in preparation_error(make, cut)


def test_composed_and_decomposed_names_are_the_same(make: Callable[..., ImageSet]) -> None:
    files = {unicodedata.normalize("NFD", f"Öl {n}.png"): PNG[n] for n in range(6)}
    lines = [{"file_name": unicodedata.normalize("NFC", f"Öl {n}.png"), "text": TEXTS[n]} for n in range(6)]
    assert content(make(files | {"metadata.jsonl": json_lines(*lines)})) == expected(texts=True)
    captions = {unicodedata.normalize("NFC", f"Öl {n}.txt"): TEXTS[n].encode() for n in range(6)}
    assert content(make(files | captions)) == expected(texts=True)
    assert "two files are called Öl 1.png" in preparation_error(make, files | {"Öl 1.png": PNG[1]})


def test_a_caption_may_hold_any_separator_but_a_line_feed(make: Callable[..., ImageSet]) -> None:
    text = "two\u2028lines, old\x85mac, form\x0cfeed"
    line = json.dumps({"file_name": "0.png", "text": text}, ensure_ascii=False) + "\n"
    assert make({"0.png": PNG[0], "metadata.jsonl": line.encode()}).records[0]["text"] == text


def test_odd_ones_lose_nothing_but_their_own_label(make: Callable[..., ImageSet]) -> None:
    made = make(names("{label}/{n}.png") | {"stray.png": noise_png(9, (8, 8))})
    assert made.description.classes == ("cat", "dog")
    assert read_report(made)["without_label"] == 1
    words = make({f"{word}/{n}.png": noise_png(n) for n, word in enumerate(["bus", "train", "car", "test"][:3])})
    assert words.description.classes == ("bus", "car", "train"), "a train is a vehicle where nothing is held out"
    assert len(words.rows("train")) == 3


def test_tables_that_list_no_image_are_named_in_the_report(make: Callable[..., ImageSet]) -> None:
    made = make(FLAT | {"sales.csv": b"month,sum\n1,2\n", "dataset.json": b'{"version": 3}', "log.jsonl": b"{oops"})
    assert made.description.count == 6
    unread = read_report(made)["tables_not_read"]
    assert sorted(unread) == ["dataset.json", "log.jsonl", "sales.csv"]
    assert "has the columns month, sum; one that names images is file_name" in unread["sales.csv"]


def test_captions_that_cannot_be_decoded_are_counted_at_once(make: Callable[..., ImageSet]) -> None:
    bad = {f"{n}.txt": b"a child\x92s cup" for n in (1, 3, 4)}
    message = preparation_error(make, FLAT | bad)
    assert "3 of 6 images cannot be used" in message
    assert "3 annotation; the first: 1.png: annotation (" in message
    assert "1.txt is not UTF-8 (byte 7); convert it, as in: iconv -f WINDOWS-1252 -t UTF-8" in message
    made = make(FLAT | bad, max_bad=0.6)
    assert [one["name"] for one in read_report(made)["bad"]["annotation"]["first"]] == ["1.png", "3.png", "4.png"]


def test_long_captions_are_cut_and_counted(make: Callable[..., ImageSet]) -> None:
    made = make(FLAT | {"0.txt": b"a red cup " * 250})
    assert len(made.records[0]["text"]) == 2000
    assert read_report(made)["texts_cut"] == 1


def test_images_of_other_endings_are_read(make: Callable[..., ImageSet]) -> None:
    files = {}
    for name, form in (
        ("0.jfif", "JPEG"),
        ("1.avif", "AVIF"),
        ("2.jpg", "AVIF"),
        ("3", "JPEG"),
        ("4.pgm", "PPM"),
        ("5.j2k", "JPEG2000"),
    ):
        file = io.BytesIO()
        Image.new("RGB", (8, 8), (9, 9, 9)).save(file, form)
        files[name] = file.getvalue()
    assert make(files).description.count == 6
    if find_spec("pillow_heif") is None:
        message = preparation_error(make, files | {"6.heic": b"?"})
        assert "pip install pillow-heif to read it" in message


def test_images_of_unreadable_formats_are_bad_unless_stored_twice(make: Callable[..., ImageSet]) -> None:
    assert "1 of 7 images cannot be used" in preparation_error(make, FLAT | {"raw.cr2": b"?"})
    made = make(FLAT | {"0.svg": b"<svg/>", "1.cr2": b"?"})
    assert made.description.count == 6
    assert read_report(made)["other_files"] == {".cr2": 1, ".svg": 1}
