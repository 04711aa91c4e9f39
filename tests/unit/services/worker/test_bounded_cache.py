"""A cache keeps what was used last, of a bounded size."""

from services.worker.bounded_cache import BoundedCache


def test_what_was_not_used_for_the_longest_time_is_dropped() -> None:
    cache = BoundedCache[str, bytes](10, len)
    cache.put("a", b"1234")
    cache.put("b", b"1234")
    assert cache.get("a") == b"1234"
    cache.put("c", b"123456")
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (b"1234", None, b"123456")
    assert cache.size == 10
    cache.put("a", b"")
    assert (cache.size, len(cache)) == (6, 2)
    cache.put("d", bytes(11))
    assert (cache.size, len(cache)) == (0, 0)
    cache.clear()
    assert cache.get("c") is None
