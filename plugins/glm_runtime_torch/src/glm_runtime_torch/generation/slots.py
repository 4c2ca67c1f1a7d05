"""Which slots of the KV cache are taken."""

from __future__ import annotations

from collections.abc import Sequence


class SlotAllocator:
    """Gives out the slots of a KV cache, each to one request at a time.

    Not safe between threads: the scheduler's lock is held.

    Args:
        num_slots: how many there are; all are free.
    """

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._free = list(range(num_slots))

    @property
    def free(self) -> Sequence[int]:
        """The slots that are free now."""
        return self._free

    @property
    def num_free(self) -> int:
        """How many slots are free now."""
        return len(self._free)

    def acquire(self, slot: int | None = None) -> int:
        """Take a free slot, this one or any, and return it.

        Raises:
            ValueError: the slot, or every slot, is taken.
        """
        if not self._free:
            raise ValueError(f"all {self.num_slots} slots are taken")
        if slot is None:
            return self._free.pop()
        if slot not in self._free:
            raise ValueError(f"slot {slot} is taken")
        self._free.remove(slot)
        return slot

    def release(self, slot: int) -> None:
        """Give a slot back.

        Raises:
            ValueError: it is not taken; two requests would share it from then on.
        """
        if slot in self._free or not 0 <= slot < self.num_slots:
            raise ValueError(f"slot {slot} is not taken")
        self._free.append(slot)
