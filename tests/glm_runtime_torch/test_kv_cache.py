"""The slotted KV cache: slots, rows of different lengths, prefixes, waiting."""

from __future__ import annotations

import threading

import pytest
import torch
from glm_runtime_torch.kv_cache import KVCache

from glm_core import OutOfMemoryError

CPU = torch.device("cpu")


def small_cache(num_slots: int = 3) -> KVCache:
    return KVCache(
        num_layers=2,
        num_slots=num_slots,
        num_kv_heads=2,
        capacity=8,
        head_dim=4,
        dtype=torch.float32,
        device=CPU,
    )


def test_one_row_returns_everything_up_to_its_end() -> None:
    """Keys of earlier calls come back in order, followed by the new ones."""
    cache = small_cache()
    slot = cache.acquire()
    first, second = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 1, 4)
    cache.rows([slot], [0], 3).update(first, first + 1, 0)
    keys, values = cache.rows([slot], [3], 1).update(second, second + 1, 0)
    assert torch.equal(keys, torch.cat((first, second), dim=2))
    assert torch.equal(values, torch.cat((first, second), dim=2) + 1)


def test_rows_of_different_lengths_do_not_touch_each_other() -> None:
    """A batch of rows that begin at different positions gives each row its own keys."""
    cache = small_cache()
    slots = [cache.acquire(), cache.acquire()]
    histories = [torch.randn(1, 2, length, 4) for length in (2, 5)]
    for slot, history in zip(slots, histories, strict=True):
        cache.rows([slot], [0], history.shape[2]).update(history, history, 1)
    new = torch.randn(2, 2, 1, 4)
    keys, _ = cache.rows(slots, [2, 5], 1).update(new, new, 1)
    assert keys.shape == (2, 2, 6, 4)
    assert torch.equal(keys[0, :, :3], torch.cat((histories[0][0], new[0]), dim=1))
    assert torch.equal(keys[1], torch.cat((histories[1][0], new[1]), dim=1))


def test_prefix_stands_before_the_first_token() -> None:
    """A written prefix occupies the first positions of its slot in every layer."""
    cache = small_cache()
    slot = cache.acquire()
    prefix = torch.randn(2, 2, 2, 3, 4)  # [L, 2, G, P, H]
    cache.write_prefix(slot, prefix)
    new = torch.randn(1, 2, 1, 4)
    for layer in range(2):
        keys, values = cache.rows([slot], [3], 1).update(new, new, layer)
        assert torch.equal(keys[0, :, :3], prefix[layer, 0])
        assert torch.equal(values[0, :, :3], prefix[layer, 1])


def test_acquire_waits_for_a_slot() -> None:
    """With all slots taken, a caller waits until one is given back."""
    cache = small_cache(num_slots=1)
    slot = cache.acquire()
    taken: list[int] = []
    waiter = threading.Thread(target=lambda: taken.append(cache.acquire()))
    waiter.start()
    assert cache.free_slots == 0
    assert not taken
    cache.release(slot)
    waiter.join(10)
    assert taken == [slot]


def test_refused_reservation_says_how_much_was_asked() -> None:
    """A cache that no machine can hold gives one sentence with its size."""
    with pytest.raises(OutOfMemoryError, match=r"KV cache needs [\d.]+ GB \(1 conversations of"):
        KVCache(
            num_layers=1,
            num_slots=1,
            num_kv_heads=2**10,
            capacity=2**30,
            head_dim=2**10,
            dtype=torch.float32,
            device=CPU,
        )
