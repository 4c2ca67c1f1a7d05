"""What a step's samplers may choose from, found on the device: little leaves it, and it is waited for once.

Tokens are chosen on the processor, with the same generator as everywhere, so equal seeds give equal tokens
on every device. Only what a row's sampler may choose from is copied there, all rows' in one transfer.

Axes: B batch · V vocabulary · K candidates
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .sampling import Candidates, Sampler

# Where copying a row of scores costs more than finding its largest: beyond a bus.
PRUNED_DEVICES = frozenset({"cuda"})


def select_candidates(
    logits: Tensor, samplers: Sequence[Sampler], *, prune: bool | None = None
) -> list[Tensor | Candidates]:
    """Return what each row's sampler chooses its token from.

    Equal logits and seeds give equal tokens, whether rows are pruned or not.

    Args:
        logits: ``[B, V]`` of any dtype and device.
        samplers: of the B rows.
        prune: whether to keep the likeliest tokens only; ``None`` = where the device makes it worth while.

    Returns:
        For each row its candidates on the CPU, or all its logits ``[V]`` where a sampler may need them.
    """
    if not (logits.device.type in PRUNED_DEVICES if prune is None else prune):
        return list(logits)
    vocab_size = logits.shape[-1]
    widths = [sampler.count_candidates(vocab_size) for sampler in samplers]
    pruned = [row for row, width in enumerate(widths) if width]
    found: dict[int, Candidates | Tensor] = {}
    if pruned:
        scores = logits if len(pruned) == len(widths) else logits[pruned]
        kept = _find_likeliest(
            scores.float(), [samplers[row] for row in pruned], [widths[row] for row in pruned]
        )
        found = {row: one for row, one in zip(pruned, kept, strict=True) if one is not None}
    whole = [row for row in range(len(widths)) if row not in found]
    if whole:
        copied = (logits if len(whole) == len(widths) else logits[whole]).float().cpu()
        found |= dict(zip(whole, copied, strict=True))
    return [found[row] for row in range(len(widths))]


def _find_likeliest(
    scores: Tensor, samplers: Sequence[Sampler], widths: Sequence[int]
) -> list[Candidates | Tensor | None]:
    """Return each row's likeliest tokens; ``None`` where they do not suffice."""
    width = max(widths)
    if width == 1:
        values, tokens = (part.unsqueeze(1) for part in scores.max(dim=-1))  # the first of equals
    else:
        values, tokens = scores.topk(width)
    facts = [torch.isfinite(scores).all(dim=-1, keepdim=True).float()]
    temperatures = [sampler.nucleus_temperature for sampler in samplers]
    if any(temperatures):
        divisors = torch.tensor([[temperature or 1.0] for temperature in temperatures])
        facts.append((scores / divisors.to(scores.device)).logsumexp(dim=-1, keepdim=True))
    # Token ids are whole numbers below 2 ** 24, which float32 holds exactly: one copy takes everything.
    packed = torch.cat((values, tokens.float(), *facts), dim=-1).cpu()
    kept: list[Candidates | Tensor | None] = []
    for row, sampler, needed in zip(packed, samplers, widths, strict=True):
        if not row[2 * width]:
            kept.append(torch.full(scores.shape[-1:], torch.nan))  # the sampler knows what to do with it
            continue
        mass = float(row[2 * width + 1]) if len(facts) > 1 else 0.0
        one = Candidates(row[:needed], row[width : width + needed].long(), mass)
        kept.append(one if sampler.can_choose_from(one) else None)
    return kept
