"""Decode attention over tensors, Triton's (interpreted) and PyTorch's, against the plain one in float64."""

from __future__ import annotations

import pytest
import torch
from backend_cases import DecodeStep
from glm_backend_cuda._attention import TorchDeviceAttention, choose_chunk_size

pytest.importorskip("triton", reason="Triton is not installed")

from glm_backend_cuda import _triton_decode
from glm_backend_cuda._triton_decode import TritonDecodeAttention, decode_attention

Attention = TritonDecodeAttention | TorchDeviceAttention
BOTH = (TritonDecodeAttention, TorchDeviceAttention)
# The result is rounded once, the new key once before it is used; weights of many queries once more.
ROUNDING = {torch.float32: 3e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}
# (query heads, key heads, head dim, rotated parts of a head): one key head a query; one for all; several
# queries a key head; sizes that are no multiple of anything; more queries a key head than a product takes.
SHAPES = ((4, 4, 64, 2), (6, 1, 32, 1), (8, 2, 32, 2), (3, 3, 20, 2), (5, 1, 36, 1), (20, 1, 16, 1))


def make_step(shape: tuple[int, int, int, int], lengths: list[int], dtype: torch.dtype) -> DecodeStep:
    """A decode step over slots of 140 positions."""
    return DecodeStep(shape, lengths, dtype, capacity=140)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_attention_matches_the_plain_one(
    kind: type[Attention], shape: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    """Rotation, scores, softmax and sums equal the reference; the new key and value are stored."""
    step = make_step(shape, [1, 17, 64, 65, 140], dtype)
    wanted, keys, values = step.exact()
    found = step.run_all(kind())
    assert found.shape == wanted.shape
    assert found.dtype == dtype
    for row in range(len(wanted)):
        assert (found[row].double() - wanted[row]).norm() / wanted[row].norm() < ROUNDING[dtype]
    # PyTorch's rotation rounds twice more.
    assert (step.keys.double() - keys).abs().max() < 8 * ROUNDING[dtype]
    assert torch.equal(step.values.double(), values)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("shape", [(3, 3, 32, 2), (8, 2, 32, 1)], ids=str)
def test_a_row_attends_the_same_in_every_batch(
    kind: type[Attention], shape: tuple[int, int, int, int]
) -> None:
    """Its bits do not depend on the other rows."""
    step = make_step(shape, [65, 3, 40, 140], torch.float16)
    together = step.run_all(kind())
    for row in range(4):
        assert torch.equal(step.run(kind(), [row])[0], together[row])
    assert torch.equal(step.run(kind(), [2, 0]), together[[2, 0]])


@pytest.mark.parametrize("kind", BOTH)
def test_only_visible_positions_count_and_only_the_new_one_is_written(kind: type[Attention]) -> None:
    """What stands past a row's length, and in other slots, changes nothing and stays untouched."""
    step = make_step((4, 4, 32, 2), [5, 70], torch.float32)
    wanted = step.run_all(kind())
    for slot, length in zip(step.slots, step.lengths, strict=True):
        step.keys[slot, :, length:] = float("nan")
        step.values[slot, :, length:] = float("nan")
    for slot in {0, 1, 2, 3, 4} - set(step.slots):
        step.keys[slot] = step.values[slot] = float("nan")
    before = step.keys.clone(), step.values.clone()
    assert torch.equal(step.run_all(kind()), wanted)
    for stored, was in zip((step.keys, step.values), before, strict=True):
        assert torch.equal(stored.isnan(), was.isnan())
        assert torch.equal(stored[~was.isnan()], was[~was.isnan()])


@pytest.mark.parametrize("kind", BOTH)
def test_padding_stores_nothing(kind: type[Attention]) -> None:
    """A row of length 0 gives finite numbers and leaves the cache alone, even where its slot is in use."""
    step = make_step((4, 2, 32, 1), [1, 0, 12], torch.float32)
    step.slots[1] = step.slots[0]
    alone = step.run(kind(), [0]), step.run(kind(), [2])
    before = step.keys.clone(), step.values.clone()
    found = step.run_all(kind())
    assert found[1].isfinite().all()
    assert torch.equal(found[0], alone[0][0])
    assert torch.equal(found[2], alone[1][0])
    assert torch.equal(step.keys, before[0])
    assert torch.equal(step.values, before[1])


@pytest.mark.parametrize("kind", BOTH)
def test_large_scores_do_not_overflow(kind: type[Attention]) -> None:
    """Softmax subtracts the largest score, so one key that fits far better takes all the weight."""
    step = make_step((2, 2, 32, 2), [90], torch.float32)
    step.q *= 1000
    wanted, _, _ = step.exact()
    assert (step.run_all(kind()).double() - wanted).abs().max() < 1e-4


@pytest.mark.parametrize("kind", BOTH)
def test_slots_and_lengths_may_be_lists(kind: type[Attention]) -> None:
    """Who has them on the host need not make tensors."""
    step = make_step((4, 2, 32, 1), [9, 30], torch.float32)
    wanted = step.run_all(kind())
    rest = (step.q, step.k, step.v, step.cos, step.sin, step.keys, step.values)
    assert torch.equal(kind().decode(*rest, step.slots, step.lengths), wanted)
    assert kind.takes_tensors


def test_nothing_is_rotated_without_angles() -> None:
    """Queries and keys are taken as they are."""
    step = make_step((4, 2, 32, 1), [9, 30], torch.float32)
    step.cos, step.sin = torch.ones_like(step.cos), torch.zeros_like(step.sin)
    wanted = step.run_all(TritonDecodeAttention())
    rest = (step.keys, step.values, torch.tensor(step.slots), torch.tensor(step.lengths))
    assert torch.equal(decode_attention(step.q, step.k, step.v, None, None, *rest), wanted)


def test_cache_of_another_layout_is_refused() -> None:
    """Positions must follow one another in memory."""
    step = make_step((4, 2, 32, 1), [9], torch.float32)
    step.keys = step.keys.transpose(1, 2).contiguous().transpose(1, 2)
    with pytest.raises(ValueError, match="contiguous in positions and channels"):
        step.run_all(TritonDecodeAttention())


def test_fewer_positions_at_a_time_change_no_more_than_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiles for GPUs without tensor cores give the same result."""
    step = make_step((8, 2, 32, 1), [9, 130], torch.float16)
    wanted = step.run_all(TritonDecodeAttention())
    monkeypatch.setattr(_triton_decode, "has_tensor_cores", lambda device: False)
    found = step.run_all(TritonDecodeAttention())
    assert (found.float() - wanted.float()).norm() < 1e-3 * wanted.float().norm()


def test_chunks_follow_from_the_cache_alone() -> None:
    """Short ones for few key heads, and never more than 128."""
    assert [choose_chunk_size(2048, heads) for heads in (32, 2)] == [256, 64]
    assert [choose_chunk_size(131072, heads) for heads in (32, 2)] == [1024, 1024]
    assert choose_chunk_size(1, 1) == 64
