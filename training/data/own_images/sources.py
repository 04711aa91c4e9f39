"""Opens a source of the user's own images by what is there.

A folder is read as its tars if it has any; else as its images and tables; else as the tars, zips, parquet files or IDX
files that lie anywhere below it. The same holds for a prefix in S3. Tables next to tars and zips are read too.
"""

import glob
from collections.abc import Sequence
from pathlib import Path

from training.data.image_set import DataError
from training.data.own_images.advice import advise_file
from training.data.own_images.buckets import open_bucket
from training.data.own_images.folder import Folder
from training.data.own_images.idx import Idx, is_idx
from training.data.own_images.names import TAR_ENDINGS, is_hidden, is_image, is_table, is_tar
from training.data.own_images.parquet import Parquet, is_parquet
from training.data.own_images.source import Source
from training.data.own_images.tars import disk_tars
from training.data.own_images.zips import Zips

PERMITTED = f"a tar ({', '.join(TAR_ENDINGS)}), zip, parquet or IDX file"


def open_source(source: str) -> Source:
    """Open a source: a folder, an archive, a pattern of archives, or the same in S3. See the module.

    Raises DataError if there is none.
    """
    if source.startswith("s3://"):
        return open_bucket(source, open_archives)
    path = Path(source).expanduser()
    if path.is_dir():
        return open_folder(source, path)
    if path.is_file():
        found = open_archives(source, [path], path.parent)
        if found is None:
            raise DataError(f"data.root: {path} is neither a folder nor {PERMITTED}{advise_file(path.name)}")
        return found
    if glob.has_magic(source):
        paths = sorted(Path(file) for file in glob.glob(str(path), recursive=True))
        found = open_archives(source, paths, Path(glob.escape(str(path)).partition("[")[0]).parent)
        if found is None:
            raise DataError(f"data.root: no tar matches {source}, nor a zip, parquet or IDX file")
        return found
    raise DataError(f"data.root: {source} does not exist")


def open_folder(source: str, path: Path) -> Source:
    """Open a folder; see the module."""
    inner = sorted(file for file in path.iterdir() if is_tar(file.name) and not is_hidden(file.name))
    if inner:
        if (loose := next(filter(is_image, Folder(path).names), None)) is not None:
            raise DataError(
                f"data.root: {path} holds both tars ({inner[0].name}) and images ({loose}); keep them apart"
            )
        return disk_tars(source, inner, [file for file in path.iterdir() if is_table(file.name)])
    folder = Folder(path)
    if any(map(is_image, folder.names)):
        return folder
    return open_archives(source, [path / name for name in folder.names], path) or folder


def open_archives(source: str, paths: Sequence[Path], root: Path) -> Source | None:
    """Return the source of those files that are archives of one kind, or None. Raises DataError for several kinds."""
    kinds = {
        "tar": [path for path in paths if is_tar(path.name)],
        "zip": [path for path in paths if path.name.lower().endswith(".zip")],
        "parquet": [path for path in paths if is_parquet(path.name)],
        "IDX": [path for path in paths if is_idx(path.name)],
    }
    present = {kind: found for kind, found in kinds.items() if found}
    if len(present) > 1:
        listed = " and ".join(f"{kind} files ({found[0].name})" for kind, found in present.items())
        raise DataError(f"data.root: {source} holds {listed}; keep them apart")
    match next(iter(present.items()), None):
        case "tar", found:
            return disk_tars(source, found)
        case "zip", found:
            return Zips(source, found, {str(path.relative_to(root)): path for path in paths if is_table(path.name)})
        case "parquet", found:
            return Parquet(source, found, root)
        case "IDX", found:
            return Idx(source, found)
    return None
