"""Checks by listings that a bucket holds what was written to it: many objects in few requests."""

from collections.abc import Mapping

from services.storage.content import Content
from services.storage.object_store import ObjectStore

FEW = 2  # objects for which a request each costs less than a listing
PAGE = 1_000


def find_kept(store: ObjectStore, contents: Mapping[str, Content]) -> set[str]:
    """Return the keys whose objects have these contents, as far as their sizes and ETags tell.

    It lists the folders of the keys from the first key on, so keys that lie close together cost one request.
    """
    kept: set[str] = set()
    rest = sorted(contents)
    while rest:
        if len(rest) <= FEW:
            return kept | {key for key in rest if store.holds(key, contents[key])}
        folder = rest[0].rpartition("/")[0] + "/"
        listed, is_truncated = store.signed.list_folder(folder, rest[0][:-1], min(PAGE, 2 * len(rest)))
        for key in rest:
            if key in listed:
                size, etag = listed[key]
                if contents[key].is_in({"ContentLength": size, "ETag": etag}):
                    kept.add(key)
        last = max(listed, default="") if is_truncated else None
        rest = [key for key in rest[1:] if not key.startswith(folder) or (last is not None and key > last)]
    return kept
