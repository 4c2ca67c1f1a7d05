"""Decode attention of the kernel library, against the runtime's plain one in float64."""

from __future__ import annotations

import threading

import pytest
import torch
from glm_backend_cpu._attention import NativeDecodeAttention
from glm_backend_cpu._native import Native
from glm_runtime_torch.network.attention import TorchDecodeAttention
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# The result is rounded once, the new key once before it is used.
ROUNDING = {torch.float32: 3e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}
# (query heads, key heads, head dim, blocks that are turned): ChatGLM-6B's; one key head for all;
# sixteen queries a key head, as ChatGLM2 has; sizes that are no multiple of anything.
SHAPES = ((32, 32, 128, 2), (6, 1, 64, 1), (32, 2, 128, 2), (3, 3, 20, 2), (5, 1, 36, 1))


class Step:
    """Random inputs of one decode step over a cache of three slots more than there are rows."""

    def __init__(
        self, shape: tuple[int, int, int, int], lengths: list[int], dtype: torch.dtype, capacity: int = 70
    ) -> None:
        N, G, H, R = shape
        B = len(lengths)
        generator = torch.Generator().manual_seed(N * H + B)

        def random(*sizes: int) -> Tensor:
            return torch.randn(sizes, generator=generator).to(dtype)

        fused = random(B, 1, G, (N // G + 2) * H).transpose(1, 2)  # as one projection makes them
        self.q = fused[..., : N // G * H].unflatten(-1, (-1, H)).transpose(2, 3).flatten(1, 2)
        self.k, self.v = fused[..., -2 * H : -H], fused[..., -H:]
        angles = torch.rand(B, 1, 1, R, H // R // 2, generator=generator) * 6.3
        angles = torch.cat((angles, angles), dim=-1)
        self.cos, self.sin = angles.cos().to(dtype), angles.sin().to(dtype)
        self.keys, self.values = random(B + 3, G, capacity, H), random(B + 3, G, capacity, H)
        self.slots = [B + 2 - row for row in range(B)]
        self.lengths = lengths

    def run(self, attention: NativeDecodeAttention | TorchDecodeAttention, rows: list[int]) -> Tensor:
        """The context of some of the rows; the cache is written."""
        return attention.decode(  # type: ignore[call-arg]
            *(  # type: ignore[arg-type]
                tensor[rows] if len(rows) < len(self.lengths) else tensor
                for tensor in (self.q, self.k, self.v)
            ),
            self.cos[rows],
            self.sin[rows],
            self.keys,
            self.values,
            [self.slots[row] for row in rows],
            [self.lengths[row] for row in rows],
        )

    def all(self, attention: NativeDecodeAttention | TorchDecodeAttention) -> Tensor:
        """The context of every row."""
        return self.run(attention, list(range(len(self.lengths))))

    def exact(self) -> tuple[Tensor, Tensor, Tensor]:
        """Context, keys and values in float64."""
        q, k, v, cos, sin, keys, values = (
            tensor.double() for tensor in (self.q, self.k, self.v, self.cos, self.sin, self.keys, self.values)
        )
        context = TorchDecodeAttention().decode(q, k, v, cos, sin, keys, values, self.slots, self.lengths)
        return context, keys, values


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_attention_matches_the_plain_one(
    native: Native, shape: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    """Rotation, scores, softmax and sums equal the reference; the new key and value are stored."""
    step = Step(shape, [1, 2, 16, 17, 33, 70], dtype)
    wanted, keys, values = step.exact()
    found = step.all(NativeDecodeAttention(native))
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
    step = Step(shape, [65, 3, 40, 70], dtype)
    together = step.all(attention)
    for threads in (1, 2, 3):
        native.threads = threads
        assert torch.equal(step.all(attention), together)
        for row in range(4):
            assert torch.equal(step.run(attention, [row])[0], together[row])
        assert torch.equal(step.run(attention, [2, 0]), together[[2, 0]])


def test_only_visible_positions_count(native: Native) -> None:
    """What stands past a row's length, and in other slots, changes nothing and stays untouched."""
    step = Step((4, 4, 32, 2), [5, 9], torch.float32)
    attention = NativeDecodeAttention(native)
    wanted = step.all(attention)
    for slot, length in zip(step.slots, step.lengths, strict=True):
        step.keys[slot, :, length:] = float("nan")
        step.values[slot, :, length:] = float("nan")
    assert torch.equal(step.all(attention), wanted)
    assert step.keys[step.slots[0], :, 5:].isnan().all()


def test_large_scores_do_not_overflow(native: Native) -> None:
    """Softmax subtracts the largest score, so one key that fits far better takes all the weight."""
    step = Step((2, 2, 32, 2), [20], torch.float32)
    step.q *= 1000
    wanted, _, _ = step.exact()
    assert torch.allclose(step.all(NativeDecodeAttention(native)).double(), wanted, atol=1e-4)


def test_nothing_is_turned_without_angles(native: Native) -> None:
    """Without cosine and sine the result is that of angle 0."""
    step = Step((4, 2, 24, 1), [6, 8], torch.float32)
    step.cos.fill_(1)
    step.sin.fill_(0)
    attention = NativeDecodeAttention(native)
    new = step.q, step.k, step.v
    plain = attention.decode(*new, None, None, step.keys, step.values, step.slots, step.lengths)
    assert torch.equal(plain, step.all(attention))


def test_places_outside_the_cache_are_refused(fastest: Native) -> None:
    """A slot or a length that the cache does not have never reaches the kernels."""
    attention = NativeDecodeAttention(fastest)
    for slots, lengths, message in (
        ([4], [3], "between 0 and 3"),
        ([-1], [3], "between 0 and 3"),
        ([0], [71], "between 1 and 70"),
        ([0], [0], "between 1 and 70"),
    ):
        step = Step((2, 2, 16, 2), [3], torch.float32)
        step.slots, step.lengths = slots, lengths
        with pytest.raises(IndexError, match=message):
            step.all(attention)


def test_what_the_library_cannot_do_goes_to_torch(fastest: Native) -> None:
    """Mixed dtypes and channels that are not adjacent give the plain result."""
    step = Step((4, 4, 32, 2), [7, 3], torch.float32)
    step.q, step.k, step.v, step.cos, step.sin, step.keys, step.values = (
        tensor.double() for tensor in (step.q, step.k, step.v, step.cos, step.sin, step.keys, step.values)
    )
    wanted, _, _ = step.exact()
    assert torch.equal(step.all(NativeDecodeAttention(fastest)), wanted)


def test_several_threads_may_attend_at_once(fastest: Native) -> None:
    """Calls from several Python threads take turns inside and disturb nobody's result."""
    attention = NativeDecodeAttention(fastest)
    steps = [Step((32, 32, 128, 2), [60] * count, torch.bfloat16) for count in (1, 2, 3)]
    wanted = [step.all(attention) for step in steps]
    wrong: list[int] = []

    def work(which: int) -> None:
        for _ in range(30):
            if not torch.equal(steps[which].all(attention), wanted[which]):
                wrong.append(which)

    threads = [threading.Thread(target=work, args=(which,)) for which in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
