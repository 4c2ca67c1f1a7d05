"""The slotted KV cache: prompts in pieces, rows of different lengths, several tokens a step, room."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from glm_runtime_torch.network.attention import TorchDecodeAttention, compute_attention
from glm_runtime_torch.network.kv_cache import KVCache, choose_slots, compute_slot_bytes
from glm_runtime_torch.network.rotary import Rotary, RotaryEmbedding
from recorded_steps import TensorAttention

from glm_core import OutOfMemoryError

CPU = torch.device("cpu")
UNTURNED = Rotary(torch.ones(1, 1, 1, 1, 4), torch.zeros(1, 1, 1, 1, 4))


def small_cache(num_slots: int = 3, capacity: int = 8, attention: Any = None) -> KVCache:
    return KVCache(
        num_layers=2,
        num_slots=num_slots,
        num_kv_heads=2,
        capacity=capacity,
        head_dim=4,
        dtype=torch.float32,
        device=CPU,
        attention=attention,
    )


def test_prompt_in_pieces_attends_like_the_whole() -> None:
    """With a context that sees itself in both directions, pieces give what one pass gives."""
    cache = small_cache()
    q, k, v = torch.randn(1, 2, 6, 4), torch.randn(1, 2, 6, 4), torch.randn(1, 2, 6, 4)
    whole, pieces = (cache.select_prefill_rows(slot, 0, 4) for slot in (0, 1))
    whole.put(k, v, 1, 0)
    expected = whole.attend(q, 1, 0)
    for start in (0, 3, 5):
        stop = {0: 3, 3: 5, 5: 6}[start]
        pieces.put(k[:, :, start:stop], v[:, :, start:stop], 1, start)
    context = torch.cat([pieces.attend(q[:, :, a:b], 1, a) for a, b in ((0, 3), (3, 5), (5, 6))], dim=1)
    torch.testing.assert_close(context, expected)
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    causal[:, :4] = True
    torch.testing.assert_close(expected, compute_attention(q, k, v, causal))


def test_rows_of_different_lengths_do_not_touch_each_other() -> None:
    """In a decode step of two lengths each row gets, bit for bit, what it gets alone."""
    cache = small_cache()
    slots = [2, 0]
    for slot, length in zip(slots, (2, 5), strict=True):
        history = torch.randn(1, 2, length, 4)
        cache.select_prefill_rows(slot, 0, 0).put(history, history + 1, 1, 0)
    q, k, v = torch.randn(2, 4, 1, 4), torch.randn(2, 2, 1, 4), torch.randn(2, 2, 1, 4)  # two heads a key
    together = cache.select_decode_rows(slots, [3, 6]).attend(q, k, v, UNTURNED, 1)
    assert together.shape == (2, 1, 16)
    for row, length in enumerate((3, 6)):
        one = slice(row, row + 1)
        alone = cache.select_decode_rows([slots[row]], [length]).attend(q[one], k[one], v[one], UNTURNED, 1)
        assert torch.equal(alone, together[one])


def test_decode_turns_and_keeps_the_new_key() -> None:
    """The new key is stored turned, so that later queries find it where the token stands."""
    cache = small_cache()
    slot = 1
    rotary = RotaryEmbedding(4).compute_rotary(torch.tensor([[[7]]]), torch.float32)
    q, k, v = torch.randn(1, 2, 1, 4), torch.randn(1, 2, 1, 4), torch.randn(1, 2, 1, 4)
    context = cache.select_decode_rows([slot], [1]).attend(q, k, v, rotary, 0)
    torch.testing.assert_close(context, v.transpose(1, 2).flatten(2))  # one key: its value
    turned = cache.select_prefill_rows(slot, 0, 1)
    assert torch.equal(turned._keys[0][slot, :, 0], rotary.rotate(k)[0, :, 0])


def test_prefix_stands_before_the_first_token() -> None:
    """A written prefix is seen by the first token in every layer."""
    cache = small_cache()
    slot = 1
    prefix = torch.randn(2, 2, 2, 3, 4)  # [L, 2, G, P, H]
    cache.write(slot, prefix)
    q, k, v = torch.randn(1, 2, 1, 4), torch.randn(1, 2, 1, 4), torch.randn(1, 2, 1, 4)
    for layer in range(2):
        context = cache.select_decode_rows([slot], [4]).attend(q, k, v, UNTURNED, layer)
        keys = torch.cat((prefix[layer, 0].unsqueeze(0), k), dim=2)
        values = torch.cat((prefix[layer, 1].unsqueeze(0), v), dim=2)
        torch.testing.assert_close(context, compute_attention(q, keys, values))


def test_what_is_written_behind_something_leaves_that_alone() -> None:
    """Keys and values of two adapters stand one behind the other."""
    cache = small_cache()
    first, second = torch.randn(2, 2, 2, 3, 4), torch.randn(2, 2, 2, 2, 4)
    cache.write(1, first)
    cache.write(1, second, start=3)
    for layer in range(2):
        for part, stored in enumerate((cache._keys, cache._values)):
            both = torch.cat((first[layer, part], second[layer, part]), dim=1)
            assert torch.equal(stored[layer][1, :, :5], both)


@pytest.mark.parametrize("attention", [TorchDecodeAttention(), TensorAttention()], ids=["plain", "tensors"])
@pytest.mark.parametrize("count", [2, 5])
def test_several_tokens_attend_like_one_after_the_other(attention: Any, count: int) -> None:
    """A step of k tokens leaves the keys, values and contexts of k steps, bit for bit, in every row."""
    rotary = RotaryEmbedding(4).compute_rotary(torch.randint(50, (2, 1, count)), torch.float32)
    history = torch.randn(2, 2, 2, 7, 4)
    q, k, v = torch.randn(2, 4, count, 4), torch.randn(2, 2, count, 4), torch.randn(2, 2, count, 4)
    caches, contexts = [], []
    for pieces in ([slice(0, count)], [slice(token, token + 1) for token in range(count)]):
        cache = small_cache(capacity=12, attention=attention)
        for slot, length in ((2, 7), (0, 3)):
            cache.write(slot, history[:, :, :, :length])
        found = []
        for piece in pieces:
            rows = cache.select_decode_rows([2, 0], [7 + piece.stop, 3 + piece.stop])
            angles = rotary.select_tokens(piece.start, piece.stop)
            found.append(rows.attend(q[:, :, piece], k[:, :, piece], v[:, :, piece], angles, 1))
        caches.append(torch.stack([cache._keys[1], cache._values[1]]))
        contexts.append(torch.cat(found, dim=1))
    assert contexts[0].shape == (2, count, 16)
    assert torch.equal(*contexts)
    assert torch.equal(*caches)


def test_padding_stays_padding_with_several_tokens() -> None:
    """A row of length 0 stores nothing, however many tokens the step has."""
    cache = small_cache(attention=TensorAttention())
    q, k = torch.randn(2, 4, 3, 4), torch.randn(2, 2, 3, 4)
    rotary = Rotary(torch.ones(2, 1, 3, 1, 4), torch.zeros(2, 1, 3, 1, 4))
    rows = cache.select_decode_rows(torch.tensor([1, 0]), torch.tensor([3, 0]))
    assert rows.attend(q, k, k, rotary, 0).isfinite().all()
    assert torch.equal(cache._keys[0][1, :, :3], k[0])
    assert not cache._keys[0][0].any()


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


def test_slots_follow_from_the_memory() -> None:
    """As many as fit and no more than sixteen; the wish of a user is kept or refused, never trimmed."""
    slot = compute_slot_bytes(28, 32, 4096, 128, torch.float16)
    assert slot == 4096 * 458752  # 0.4375 MiB a token, as of ChatGLM-6B
    assert choose_slots(0, slot, 5 * slot + 1) == 5
    assert choose_slots(0, slot, 100 * slot) == 16
    assert choose_slots(0, slot, 0) == 16
    assert choose_slots(40, slot, 100 * slot) == 40
    with pytest.raises(OutOfMemoryError, match=r"of 3 conversations needs 5.64 GB, 3.76 GB are set aside"):
        choose_slots(3, slot, 2 * slot)
    with pytest.raises(OutOfMemoryError, match="--context-length"):
        choose_slots(0, slot, slot - 1)
