"""The mean loss over evaluation rows, computed by all processes of a job together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from glm_runtime_torch.training import PrefixEncoder, compute_token_losses

from ._examples import Batch
from ._processes import Processes


@torch.no_grad()
def compute_mean_loss(
    network: Any,
    encoder: PrefixEncoder | None,
    batches: Sequence[Batch],
    device: torch.device,
    processes: Processes,
) -> float:
    """Return the mean loss of all learnt tokens of some batches, without dropout; processes share it."""
    total = torch.zeros(2, dtype=torch.float64)  # sum and count; float64, because many small losses are added
    for batch in batches[processes.rank :: processes.size]:
        losses = compute_token_losses(network, batch.input_ids, batch.labels, device, encoder).double().cpu()
        total += torch.stack((losses.sum(), torch.tensor(len(losses), dtype=torch.float64)))
    total = total.to(device) if device.type == "cuda" else total
    processes.sum([total])
    return float(total[0] / total[1])
