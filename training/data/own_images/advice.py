"""What to do with files that are not read, by their endings."""

import posixpath
import re

from training.data.own_images.names import UNREADABLE_ENDINGS, is_image, is_table

CIFAR = re.compile(r"(data_batch_\d+|test_batch)(\.bin)?", re.IGNORECASE)
ARRAYS = "arrays: write each picture as a PNG, in a folder of its class"
UNPACK = "an archive: unpack it, and give the folder"
PART = re.compile(r".*\.(zip|7z|rar|tar|tar\.\w+|tgz)\.(\d+|part.*)|.*\.(z\d\d|r\d\d)")
BY_ENDING = {
    **dict.fromkeys(UNREADABLE_ENDINGS, "convert it to PNG"),
    **dict.fromkeys((".heic", ".heif", ".hif"), "the format of phones: pip install pillow-heif to read it"),
    ".parquet": "its rows are read if the file is given as PICTURES, or called metadata.parquet and names pictures",
    **dict.fromkeys((".npz", ".npy", ".mat", ".h5", ".hdf5", ".pkl", ".pickle", ".pt", ".mdb", ".tfrecord"), ARRAYS),
    ".arrow": "write it as parquet, datasets.load_from_disk(FOLDER).to_parquet(FILE)",
    **dict.fromkeys((".zip", ".rar", ".7z", ".zst", ".tar", ".tgz"), UNPACK),
    **dict.fromkeys(
        (".mp4", ".mov", ".avi", ".mkv", ".webm"), "a video: write its frames, ffmpeg -i VIDEO -r 1 %06d.png"
    ),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "a spreadsheet: save it as CSV"),
    ".lst": "a list: write it as a CSV with the columns file_name and label",
    ".xml": "boxes of Pascal VOC: convert them to COCO's JSON",
    **dict.fromkeys((".dcm", ".nii"), "scans: convert them to PNG"),
}


def advise(name: str) -> str | None:
    """Return what to do with a file of this name that is not read, or None."""
    file = posixpath.basename(name).lower()
    if PART.fullmatch(file):
        return "a part of an archive: join the parts, unpack them, and give the folder"
    if CIFAR.fullmatch(file):
        return ARRAYS
    ending = ".tfrecord" if ".tfrecord" in file else posixpath.splitext(file.removesuffix(".gz"))[1]
    return BY_ENDING.get(ending)


def advise_file(name: str) -> str:
    """Return what to do with a file that is given as the source of images and is none."""
    if is_image(name) or is_table(name):
        return "; give its folder"
    advice = advise(name)
    return f"; {advice}" if advice else ""
