"""Slots are taken by one request at a time."""

from __future__ import annotations

import pytest
from glm_runtime_torch.generation.slots import SlotAllocator


def test_slots_are_taken_and_given_back() -> None:
    """A slot that is given back can be taken again."""
    slots = SlotAllocator(1)
    slot = slots.acquire()
    assert slots.num_free == 0
    slots.release(slot)
    assert slots.acquire() == slot


def test_one_slot_may_be_asked_for() -> None:
    """Whoever wants a certain slot gets it, and nobody else does meanwhile."""
    slots = SlotAllocator(3)
    assert slots.acquire(1) == 1
    assert sorted(slots.free) == [0, 2]
    assert {slots.acquire(), slots.acquire()} == {0, 2}


def test_two_requests_never_share_a_slot() -> None:
    """Taking what is taken, and giving back what is free, are errors."""
    slots = SlotAllocator(2)
    slots.acquire(0)
    with pytest.raises(ValueError, match="slot 0 is taken"):
        slots.acquire(0)
    for free in (1, 7):
        with pytest.raises(ValueError, match="not taken"):
            slots.release(free)
    slots.acquire()
    with pytest.raises(ValueError, match="all 2 slots"):
        slots.acquire()
