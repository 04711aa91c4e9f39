"""CSV files as programs and people write them: read as they are meant, or refused with the row and the reason."""

import json
from collections.abc import Callable

import pytest

from tests.support.own_images import Files, noise_png, preparation_error, read_report
from training.data.image_set import DataError, ImageSet
from training.data.own_images.csv_tables import read_csv

PICTURES: Files = {f"{n}.png": noise_png(n, (8, 8)) for n in range(2)}
CAPTIONED = {
    "quotes after a backslash": (
        "metadata.csv",
        'file_name,text\n0.png,"a ""big"" \\"red\\" cat, sitting"\n1.png,a \\"dog\\"\n',
        ['a "big" "red" cat, sitting', 'a "dog"'],
    ),
    "backslashes before the end of a field": (
        "metadata.csv",
        'file_name,path,text\n0.png,"C:\\pets\\","a ""red"" cat"\n1.png,"C:\\","x"\n',
        ['a "red" cat', "x"],
    ),
    "commas without quotes": (
        "captions.txt",
        "image,caption\n0.png,A child , running , in a dress .\n1.png,A dog .\n",
        ["A child , running , in a dress .", "A dog ."],
    ),
    "commas without quotes or a header": (
        "captions.csv",
        "0.png,a cat, red, sits\n1.png,b\n",
        ["a cat, red, sits", "b"],
    ),
    "tabs, and commas in captions": ("captions.txt", "0.png\ta cat, red\n1.png\tb, c, d\n", ["a cat, red", "b, c, d"]),
    "bars, and commas in captions": ("results.csv", "image|comment\n0.png|a, b, c\n1.png|d\n", ["a, b, c", "d"]),
    "spaces": ("captions.txt", "0.png a cat is red\n1.png b\n", ["a cat is red", "b"]),
}


@pytest.mark.parametrize("form", CAPTIONED)
def test_captions_hold_quotes_and_separators(form: str, make: Callable[..., ImageSet]) -> None:
    name, text, expected = CAPTIONED[form]
    assert [record["text"] for record in make(PICTURES | {name: text.encode()}).records] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.png golden retriever\n1.png pug\n", ["golden retriever", "pug"]),
        ("0.png\tn0144\t0\t32\t44.5\t62\n1.png\tn0145\t1\t2\t3\t4\n", ["n0144", "n0145"]),
        ("image,label,\n0.png,cat,\n1.png,dog,,\n", ["cat", "dog"]),
        ("Image Index,Label\n0.png,1.0\n1.png,2.0\n", ["1", "2"]),
        ("Filename,Label,ClassName\n0.png,0,Forest\n1.png,1,River\n", ["Forest", "River"]),
    ],
)
def test_labels_of_several_words_and_before_numbers(
    text: str, expected: list[str], make: Callable[..., ImageSet]
) -> None:
    made = make(PICTURES | {"labels.txt": text.encode()})
    assert [made.description.classes[record["label"]] for record in made.records] == expected


def test_the_folder_of_a_table_does_not_say_what_its_second_column_is(make: Callable[..., ImageSet]) -> None:
    files = {f"captions/{name}": data for name, data in PICTURES.items()}
    assert make(files | {"captions/labels.csv": b"0.png,cat\n1.png,dog\n"}).description.classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("file,caption,label\n0.png,a cat, red,cat\n", "x.csv:2 has 4 columns, and the table 3"),
        ('file,caption\n0.png,"open\n1.png,x\n', "x.csv:3: a quote does not end"),
        ("0.png,1,2,cat\n", "x.csv has 4 columns and no header"),
    ],
)
def test_rows_that_could_be_misread_are_refused(text: str, reason: str) -> None:
    with pytest.raises(DataError) as caught:
        list(read_csv("x.csv", text.encode(), "x.csv"))
    assert reason in str(caught.value)


def test_a_table_without_a_header_is_told_and_a_row_that_is_too_long_refuses_the_set(
    make: Callable[..., ImageSet],
) -> None:
    boxes = make(PICTURES | {"annotations.csv": b"0.png,1,1,5,5,cat\n"})
    assert "no header" in json.dumps(read_report(boxes)["tables_not_read"])
    assert len(make(PICTURES | {"styles.csv": b"id,season,name\n0,Fall,Check, Navy Shirt\n"}).records) == 2
    rows = b"file,caption,label\n0.png,a,cat\n1.png,b, c,dog\n"
    assert "x.csv:3 has 4 columns" in preparation_error(make, PICTURES | {"x.csv": rows})
