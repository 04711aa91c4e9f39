"""The meaning of file names: the role of a file, and whether a folder or an archive is a split."""

import os
import posixpath
import re
import unicodedata
from importlib.util import find_spec

IMAGE_ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".jfif", ".jpe", ".avif", ".jp2", ".j2k", ".jpx", ".jpf", ".ppm", ".pgm", ".pbm", ".pnm", ".mpo", ".apng"),
    *((".heic", ".heif", ".hif") if find_spec("pillow_heif") else ()),
)
UNREADABLE_ENDINGS = (
    *(".heic", ".heif", ".hif", ".jxl", ".jxr", ".svg", ".psd", ".tga", ".ico", ".eps", ".exr", ".hdr", ".xcf"),
    *(".dds", ".pcx", ".qoi"),
    *(".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2"),
)  # of images that are not read, unless a plugin adds them to IMAGE_ENDINGS
CAPTION_ENDINGS = (".txt", ".caption")
SIDECAR_ENDINGS = (*CAPTION_ENDINGS, ".cls", ".json")
MAP_ENDING, MASK_ENDING = ".map.png", ".mask.png"
TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
ARCHIVE_ENDINGS = (*TAR_ENDINGS, ".zip")
METADATA = "metadata.jsonl"
LINE_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
TABLE_ENDINGS = (*LINE_TABLES, ".json", ".parquet")
JSON_TABLE = re.compile(
    r"metadata|labels|captions|annotations|dataset|train|val|validation|test|_annotations\.coco"
    r"|(captions|instances)_(train|val|test|default)\d*|meta_(cap|clean|lat|tag)"
)

TEXT_TABLE = re.compile(r"(.*[-_])?(labels|captions|annotations)\.txt|list_eval_partition\.txt")
SPLITS = {
    "train": "train",
    "held_out": "held_out",
    "validation": "held_out",
    "test": "held_out",
    "val": "held_out",
    "valid": "held_out",
    "training": "train",
    "testing": "held_out",
}  # what records may say
SPLIT_FOLDERS = {**SPLITS, "dev": "held_out", "eval": "held_out", "evaluation": "held_out", "holdout": "held_out"}
SPLIT_FOLDER = re.compile(rf"({'|'.join(SPLIT_FOLDERS)})[-_. ]?(images?|imgs?|pictures|set|data|split|\d+|a|b)?")
PART = re.compile(r"[-_ .(]*\d+\)?")  # the number of a part, and of a copy
SPLIT_LIST = re.compile(rf"({'|'.join(SPLIT_FOLDERS)})[-_ ]?(list|set|split|images|files)?\.txt")
SPLIT_IN_FILE = re.compile(rf"(?<![a-z])({'|'.join(SPLIT_FOLDERS)})(?![a-z])")
HIDDEN = {
    *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini"),
    *("$recycle.bin", "system volume information", "lost+found", "@eadir", "#recycle", "@recycle", "#snapshot"),
}  # in lower case


def is_image(name: str) -> bool:
    """Return whether a file of this name holds an image of a readable format."""
    return name.lower().endswith(IMAGE_ENDINGS)


def may_be_image(name: str) -> bool:
    """Return whether only the content tells if a file is an image: it has no ending, or none that means anything."""
    ending = posixpath.splitext(name)[1].lower()
    return not re.search("[a-z]", ending) or (ending.startswith(IMAGE_ENDINGS) and ending not in IMAGE_ENDINGS)


def is_table(name: str) -> bool:
    """Return whether a file of this name may describe images, one per line or entry."""
    if not name.lower().endswith(TABLE_ENDINGS):
        return TEXT_TABLE.fullmatch(posixpath.basename(name).lower()) is not None or is_split_list(name)
    stem, ending = posixpath.splitext(posixpath.basename(name).lower())
    return ending in LINE_TABLES or (ending == ".json" and JSON_TABLE.fullmatch(stem) is not None) or is_metadata(name)


def is_split_list(name: str) -> bool:
    """Return whether a file of this name may list the images of a split: train.txt, or a caption of train.png."""
    return SPLIT_LIST.fullmatch(posixpath.basename(name).lower()) is not None


def is_metadata(name: str) -> bool:
    """Return whether a file of this name lists the images of a set: others beside them are left out."""
    if not name.lower().endswith(TABLE_ENDINGS):
        return False
    stem, ending = posixpath.splitext(posixpath.basename(name).lower())
    return stem == "metadata" and ending in TABLE_ENDINGS


def is_tar(name: str) -> bool:
    """Return whether a file of this name is a tar."""
    return name.lower().endswith(TAR_ENDINGS)


def is_hidden(part: str) -> bool:
    """Return whether a file manager, an editor or a disk wrote the file or the folder of this name for itself."""
    return part.startswith(".") or part.lower() in HIDDEN


def is_hidden_path(name: str) -> bool:
    """Return whether any part of a path is hidden."""
    return any(map(is_hidden, name.split("/")))


def clean(name: str) -> str:
    """Return a path as the name of an image: without "./" or "/", composed (NFC), with bytes not in UTF-8 replaced."""
    while name.startswith(("./", "/")):
        name = name.partition("/")[2]
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "replace"))


def split_of_word(word: str) -> str | None:
    """Return the split that a word means in a record, or None. Spaces, hyphens and upper case do not matter."""
    plain = re.sub(r"[-_ ]", "", word.lower())
    return next((split for name, split in SPLIT_FOLDERS.items() if name.replace("_", "") == plain), None)


def split_of_folder(folder: str) -> tuple[str | None, str]:
    """Return the split that a folder's name means, and the rest of the name that is a class: trainA is (train, A)."""
    match = SPLIT_FOLDER.fullmatch(folder.lower())
    if match is None:
        return None, folder
    rest = match[2] or ""
    return SPLIT_FOLDERS[match[1]], rest.upper() if rest in ("a", "b") else ""


def split_in_folder(folder: str) -> tuple[str | None, str]:
    """Return the split that a word in a folder's name means, and the name without it: seg_train is (train, seg_*).

    Only if another folder is called the same with another split do both mean splits. A number in front does not count.
    """
    plain = re.sub(r"^\d+[-_. ]+", "", re.sub(r"\b(hold|held)[- ]out\b", r"\1_out", folder.lower()))
    plain = plain.replace("hold_out", "holdout")
    found = SPLIT_IN_FILE.findall(plain)
    return (SPLIT_FOLDERS[found[0]], SPLIT_IN_FILE.sub("*", plain)) if len(found) == 1 else (None, folder)


def split_of_file(name: str) -> str | None:
    """Return the split that the name of an archive or a table means, as in shapes-train-0001.tar, or None."""
    stem = posixpath.basename(name).lower().partition(".")[0]
    found = SPLIT_IN_FILE.findall(stem)
    return SPLIT_FOLDERS[found[-1]] if found else None
