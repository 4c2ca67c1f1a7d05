"""Decode attention of the kernel library, against the runtime's plain one in float64."""

from __future__ import annotations

import threading

import pytest
import torch
from backend_cases import DecodeStep
from glm_backend_cpu._attention import NativeDecodeAttention
from glm_backend_cpu._native import Native

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# The result is rounded once, the new key once before it is used.
ROUNDING = {torch.float32: 3e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}
# (query heads, key heads, head dim, rotated parts of a head): ChatGLM-6B's; one key head for all;
# sixteen queries a key head, as ChatGLM2 has; sizes that are no multiple of anything.
SHAPES = ((32, 32, 128, 2), (6, 1, 64, 1), (32, 2, 128, 2), (3, 3, 20, 2), (5, 1, 36, 1))


def make_step(shape: tuple[int, int, int, int], lengths: list[int], dtype: torch.dtype) -> DecodeStep:
    """A decode step over slots of 70 positions."""
    return DecodeStep(shape, lengths, dtype, capacity=70)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_attention_matches_the_plain_one(
    native: Native, shape: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    """Rotation, scores, softmax and sums equal the reference; the new key and value are stored."""
    step = make_step(shape, [1, 2, 16, 17, 33, 70], dtype)
    wanted, keys, values = step.exact()
    found = step.run_all(NativeDecodeAttention(native))
    assert found.shape == wanted.shape
    assert found.dtype == dtype
    assert (found.double() - wanted).norm() / wanted.norm() < ROUNDING[dtype]
    assert (step.keys.double() - keys).abs().max() < 4 * ROUNDING[dtype]
    assert torch.equal(step.values.double(), values)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_attends_the_same_in_every_batch(
    native: Native, shape: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    """Its bits depend neither on the other rows nor on the number of threads."""
    attention = NativeDecodeAttention(native)
    step = make_step(shape, [65, 3, 40, 70], dtype)
    together = step.run_all(attention)
    for threads in (1, 2, 3):
        native.threads = threads
        assert torch.equal(step.run_all(attention), together)
        for row in range(4):
            assert torch.equal(step.run(attention, [row])[0], together[row])
        assert torch.equal(step.run(attention, [2, 0]), together[[2, 0]])


def test_only_visible_positions_count(native: Native) -> None:
    """What stands past a row's length, and in other slots, changes nothing and stays untouched."""
    step = make_step((4, 4, 32, 2), [5, 9], torch.float32)
    attention = NativeDecodeAttention(native)
    wanted = step.run_all(attention)
    for slot, length in zip(step.slots, step.lengths, strict=True):
        step.keys[slot, :, length:] = float("nan")
        step.values[slot, :, length:] = float("nan")
    assert torch.equal(step.run_all(attention), wanted)
    assert step.keys[step.slots[0], :, 5:].isnan().all()


def test_large_scores_do_not_overflow(native: Native) -> None:
    """Softmax subtracts the largest score, so one key that fits far better takes all the weight."""
    step = make_step((2, 2, 32, 2), [20], torch.float32)
    step.q *= 1000
    wanted, _, _ = step.exact()
    assert torch.allclose(step.run_all(NativeDecodeAttention(native)).double(), wanted, atol=1e-4)


def test_nothing_is_rotated_without_angles(native: Native) -> None:
    """Without cosine and sine the result is that of angle 0."""
    step = make_step((4, 2, 24, 1), [6, 8], torch.float32)
    step.cos.fill_(1)
    step.sin.fill_(0)
    attention = NativeDecodeAttention(native)
    new = step.q, step.k, step.v
    plain = attention.decode(*new, None, None, step.keys, step.values, step.slots, step.lengths)
    assert torch.equal(plain, step.run_all(attention))


def test_places_outside_the_cache_are_refused(fastest: Native) -> None:
    """A slot or a length that the cache does not have never reaches the kernels."""
    attention = NativeDecodeAttention(fastest)
    for slots, lengths, message in (
        ([4], [3], "between 0 and 3"),
        ([-1], [3], "between 0 and 3"),
        ([0], [71], "between 1 and 70"),
        ([0], [0], "between 1 and 70"),
    ):
        step = make_step((2, 2, 16, 2), [3], torch.float32)
        step.slots, step.lengths = slots, lengths
        with pytest.raises(IndexError, match=message):
            step.run_all(attention)


def test_what_the_library_cannot_do_goes_to_torch(fastest: Native) -> None:
    """Mixed dtypes and channels that are not adjacent give the plain result."""
    step = make_step((4, 4, 32, 2), [7, 3], torch.float32)
    step.q, step.k, step.v, step.cos, step.sin, step.keys, step.values = (
        tensor.double() for tensor in (step.q, step.k, step.v, step.cos, step.sin, step.keys, step.values)
    )
    wanted, _, _ = step.exact()
    assert torch.equal(step.run_all(NativeDecodeAttention(fastest)), wanted)


def test_several_threads_may_attend_at_once(fastest: Native) -> None:
    """Calls from several Python threads take turns inside and disturb nobody's result."""
    attention = NativeDecodeAttention(fastest)
    steps = [make_step((32, 32, 128, 2), [60] * count, torch.bfloat16) for count in (1, 2, 3)]
    wanted = [step.run_all(attention) for step in steps]
    wrong: list[int] = []

    def work(which: int) -> None:
        for _ in range(30):
            if not torch.equal(steps[which].run_all(attention), wanted[which]):
                wrong.append(which)

    threads = [threading.Thread(target=work, args=(which,)) for which in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
