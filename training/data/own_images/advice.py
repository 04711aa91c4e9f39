"""What to do with files that are not read, by their endings."""

import posixpath
import re

CIFAR = re.compile(r"(data_batch_\d+|test_batch)(\.bin)?", re.IGNORECASE)
ARRAYS = "arrays: write each picture as a PNG, in a folder of its class"
UNPACK = "an archive: unpack it, and give the folder"
BY_ENDING = {
    **dict.fromkeys((".npz", ".npy", ".mat", ".h5", ".hdf5", ".pkl", ".pickle", ".pt", ".mdb", ".tfrecord"), ARRAYS),
    ".arrow": "write it as parquet, datasets.load_from_disk(FOLDER).to_parquet(FILE)",
    **dict.fromkeys((".zip", ".rar", ".7z", ".zst", ".tar", ".tgz"), UNPACK),
    **dict.fromkeys(
        (".mp4", ".mov", ".avi", ".mkv", ".webm"), "a video: write its frames, ffmpeg -i VIDEO -r 1 %06d.png"
    ),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "a spreadsheet: save it as CSV"),
    ".xml": "boxes of Pascal VOC: convert them to COCO's JSON",
    **dict.fromkeys((".dcm", ".nii"), "scans: convert them to PNG"),
}


def advise(name: str) -> str | None:
    """Return what to do with a file of this name that is not read, or None."""
    file = posixpath.basename(name).lower()
    if CIFAR.fullmatch(file):
        return ARRAYS
    ending = ".tfrecord" if ".tfrecord" in file else posixpath.splitext(file.removesuffix(".gz"))[1]
    return BY_ENDING.get(ending)
