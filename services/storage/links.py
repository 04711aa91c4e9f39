"""Presigned URLs of objects."""

from datetime import timedelta

from services.storage.object_store import ObjectStore

LONGEST = timedelta(days=7)  # S3 permits no more


def sign_link(store: ObjectStore, key: str, lifetime: timedelta) -> str:
    """Return an address from which anyone can download an object until `lifetime` has passed, at most 7 days.

    It is signed with the store's credentials, without asking the store. Raises ValueError for another lifetime.
    """
    if not timedelta(seconds=1) <= lifetime <= LONGEST:
        raise ValueError(f"lifetime: {lifetime} is not allowed; permitted: 1 second to 7 days")
    seconds = int(lifetime.total_seconds())
    request = {"Bucket": store.bucket, "Key": key}
    return str(store.client.generate_presigned_url("get_object", Params=request, ExpiresIn=seconds))
