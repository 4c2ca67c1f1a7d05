"""GPTQ for one matrix: columns rounded one after the other, later ones making up for earlier errors.

The formats are those of `glm_runtime_torch.quantization.formats`, so whoever reads the integers
need not know how they were found. Columns are taken by how much their inputs vary, the most
important first (the paper's "act-order"); since scales are fixed beforehand, that leaves no trace
in what is stored. Source: GPTQ, arXiv:2210.17323.

Axes: D input features · O output features · g input features of a group · G groups
"""

from __future__ import annotations

import torch
from torch import Tensor

from glm_core.records import QuantizationScheme

from .formats import compute_largest_integer, pack, quantize_rows

# Added to the Hessian's diagonal, as a share of its mean, so that it can be inverted: the paper's value.
DAMPING = 0.01
# Ten times more is tried until here. Beyond it the statistics would hardly count, so rather an error.
MAX_DAMPING = 10.0
# Columns whose errors are spread over the rest of the matrix in one product: the paper's block size. But for
# rounding the result does not depend on it, only the speed.
COLUMNS = 128
# Candidates for a scale, as a share of what the largest weight asks for: 1 down to 0.55, because a scale that
# cuts off the largest weight can round all others better.
SHARES = tuple(1 - 0.025 * step for step in range(19))


class InputStatistics:
    """Sum of ``x xᵀ`` over all inputs of a layer (the Hessian of its squared error), float32.

    Takes ``4 * D * D`` bytes: 1.07 GB for the 16,384 inputs of ChatGLM-6B's widest layer. Finding
    the integers takes up to four such matrices at a time.

    Args:
        in_features: D.
    """

    def __init__(self, in_features: int) -> None:
        self.matrix = torch.zeros(in_features, in_features)
        self.count = 0

    def add(self, x: Tensor) -> None:
        """Count inputs ``[..., D]``."""
        rows = x.reshape(-1, x.shape[-1]).float()
        self.matrix.addmm_(rows.T, rows)
        self.count += len(rows)


def quantize_with_gptq(
    weight: Tensor,
    inputs: InputStatistics,
    scheme: QuantizationScheme,
    scale_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, str]:
    """Return integers and scales whose products with the inputs that were seen are close to the weight's.

    Args:
        weight: ``[O, D]`` float32; left as it is.
        inputs: what the layer sees; emptied to save memory.
        scheme: bits and group size.
        scale_dtype: of the scales.

    Returns:
        Integers and scales as `glm_runtime_torch.quantization.quantize_rows`, and a sentence if the
        inputs were hardly enough, otherwise an empty one.

    Raises:
        ArithmeticError: the inputs or the weight hold infinities or NaN.
    """
    if not inputs.count:  # an expert that no token was sent to: nothing says which weights matter
        stored, scale = quantize_rows(weight.to(scale_dtype), scheme.bits, scheme.group_size)
        return stored, scale, "no calibration text reached this layer, so it is rounded to the nearest"
    hessian, inputs.matrix = inputs.matrix, torch.empty(0)
    importance = hessian.diagonal().clone()
    dead = importance == 0  # never active: any weight does, and 0 leaves the scales to the others
    hessian.diagonal()[dead] = 1
    weight = weight.masked_fill(dead, 0)
    scale = _search_scales(weight, importance, scheme, scale_dtype)  # [O, G]
    order = importance.argsort(descending=True)
    hessian = hessian[order.unsqueeze(1), order]
    factor, damping = _factor_inverse(hessian)
    del hessian
    group_of = order // (scheme.group_size or weight.shape[1])
    limit = compute_largest_integer(scheme.bits)
    integers = _round_in_order(weight.T[order], factor, scale.float().T.contiguous(), group_of, limit)
    restored = torch.empty_like(integers)
    restored[order] = integers
    stored = pack(restored.T.contiguous(), scheme.bits)
    note = ""
    if damping > DAMPING:
        note = f"more damping was needed ({damping:g} instead of {DAMPING:g}); more calibration text may help"
    return stored, scale if scheme.group_size else scale.squeeze(1), note


def _search_scales(
    weight: Tensor, importance: Tensor, scheme: QuantizationScheme, dtype: torch.dtype
) -> Tensor:
    """Return scales ``[O, G]``: of `SHARES` those with the least error of rounding, inputs weighted."""
    limit = compute_largest_integer(scheme.bits)
    groups = weight.unflatten(1, (-1, scheme.group_size or weight.shape[1]))  # [O, G, g]
    share_of_input = importance.view(groups.shape[1], -1)
    largest = groups.abs().amax(dim=2) / limit
    best, least = largest.to(dtype), torch.full_like(largest, torch.inf)
    for share in SHARES:
        candidate = (largest * share).to(dtype)
        step = candidate.float().unsqueeze(2)
        divisor = torch.where(step == 0, torch.ones_like(step), step)
        rounded = (groups / divisor).round_().clamp_(-limit, limit).mul_(step)
        error = (rounded.sub_(groups).square_() * share_of_input).sum(dim=2)
        better = error < least
        best, least = torch.where(better, candidate, best), torch.where(better, error, least)
    return best


def _factor_inverse(hessian: Tensor) -> tuple[Tensor, float]:
    """Return the inverse's upper Cholesky factor and the damping it took; changes the diagonal."""
    mean = hessian.diagonal().mean().item()
    damping, added = DAMPING, 0.0
    while damping <= MAX_DAMPING:
        hessian.diagonal().add_((damping - added) * mean)
        lower, failed = torch.linalg.cholesky_ex(hessian)
        if not failed:
            inverse = torch.cholesky_inverse(lower)
            del lower
            factor, failed = torch.linalg.cholesky_ex(inverse, upper=True)
            if not failed and factor.isfinite().all():
                return factor, damping
        damping, added = damping * 10, damping
    raise ArithmeticError(f"the statistics of its inputs cannot be inverted (their mean is {mean:g})")


def _round_in_order(weight: Tensor, factor: Tensor, scale: Tensor, group_of: Tensor, limit: int) -> Tensor:
    """Round rows of ``[D, O]`` in turn, adding each one's error to the rows after it.

    Args:
        weight: columns of the matrix as rows, in order; overwritten.
        factor: ``[D, D]`` upper, of the inverse Hessian in the same order.
        scale: ``[G, O]``.
        group_of: ``[D]``, row of ``scale`` that belongs to each column.
        limit: largest integer.

    Returns:
        int8 ``[D, O]`` in the same order.
    """
    integers = torch.empty(weight.shape, dtype=torch.int8)
    divisor = torch.where(scale == 0, torch.ones_like(scale), scale)
    groups = group_of.tolist()
    for start in range(0, len(weight), COLUMNS):
        stop = min(start + COLUMNS, len(weight))
        errors = torch.empty_like(weight[start:stop])
        for index in range(start, stop):
            group = groups[index]
            rounded = (weight[index] / divisor[group]).round_().clamp_(-limit, limit)
            integers[index] = rounded.to(torch.int8)
            error = (weight[index] - rounded.mul_(scale[group])) / factor[index, index]
            weight[index:stop].addr_(factor[index, index:stop], error, alpha=-1)
            errors[index - start] = error
        weight[stop:].addmm_(factor[start:stop, stop:].T, errors, alpha=-1)
    return integers
