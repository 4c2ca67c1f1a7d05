"""The trial of Triton's kernels finds what would go wrong later."""

from __future__ import annotations

import pytest
import torch
from key_words import missing_words

pytest.importorskip("triton", reason="Triton is not installed")

from glm_backend_cuda import _layers
from glm_backend_cuda._trial import try_kernels
from glm_backend_cuda._triton_decode import TritonDecodeAttention

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _forgotten() -> None:
    try_kernels.cache_clear()


def test_right_kernels_pass() -> None:
    """Products and attention agree with the reference."""
    assert try_kernels(CPU) == ""


def test_wrong_numbers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product that is off, and attention that is not a number."""
    right = _layers.pack_scale
    monkeypatch.setattr(_layers, "pack_scale", lambda scale, group: right(scale * 1.01, group))
    assert not missing_words(try_kernels(CPU), "wrong numbers on cpu", "int4", "1 rows")
    monkeypatch.setattr(_layers, "pack_scale", right)
    monkeypatch.setattr(
        TritonDecodeAttention, "decode", lambda self, q, *rest: q.reshape(2, 1, -1) * float("nan")
    )
    try_kernels.cache_clear()
    assert not missing_words(try_kernels(CPU), "wrong numbers on cpu", "attention")


def test_a_failing_compiler_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first line of what it says is kept."""

    def failing(*arguments: object, **options: object) -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    monkeypatch.setattr(_layers.TritonLinear, "from_stored", failing)
    reason = try_kernels(CPU)
    assert not missing_words(reason, "fail on cpu", "RuntimeError: Failed to find C compiler.")
    assert "specify via CC" not in reason
