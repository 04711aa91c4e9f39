"""The ids of a job's lines, of which there may be millions, in little memory."""

from array import array
from hashlib import blake2b
from secrets import token_bytes


class SeenIds:
    """A set of up to `capacity` ids, in eleven bytes an id once there is one.

    It keeps 64 bits of a keyed hash of each id. Of a million ids, two are taken for the same with a probability of
    three in a hundred million, and no client can choose such ids.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._table = array("Q")
        self._key = token_bytes(16)

    def add(self, name: str) -> bool:
        """Add an id. Returns False if it was there before."""
        if not self._table:
            self._table = array("Q", bytes(8 * (self._capacity * 4 // 3 + 2)))
        table, size = self._table, len(self._table)
        mark = int.from_bytes(blake2b(name.encode(), digest_size=8, key=self._key).digest()) or 1
        place = mark % size
        while table[place]:  # open addressing; 0 marks a free place
            if table[place] == mark:
                return False
            place = (place + 1) % size
        table[place] = mark
        return True
