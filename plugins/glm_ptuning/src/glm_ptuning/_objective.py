"""The loss of a batch: one pass through the frozen network with the trained prefix in front.

Axes: B rows · T tokens · S key positions · P prefix length · V vocabulary · n learnt tokens
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from glm_runtime_torch.network.decoder import IGNORED_LABEL
from glm_runtime_torch.network.layout import batch_layout
from glm_runtime_torch.network.prefix_encoder import PrefixedKeyValues, PrefixEncoder
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ._examples import Batch
from ._processes import Processes


def token_losses(
    network: Any,
    batch: Batch,
    device: torch.device,
    encoder: PrefixEncoder | None = None,
    *,
    dropout: float = 0.0,
    seed: int = 0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross entropy of every learnt token, float32 ``[n]``.

    The head is applied to the positions before learnt tokens alone: of a large vocabulary the logits
    of a whole sequence would be the largest tensor of a step.

    Args:
        network: of any family of the runtime.
        batch: the rows.
        device: where the network is.
        encoder: makes the prefix; ``None`` = there is none.
        dropout: of the prefix.
        seed: what it drops.
        label_smoothing: share of the target that is spread over the vocabulary.
    """
    position_ids, visible = batch_layout(network.layout, batch.input_ids)
    store = None
    if encoder is not None:
        front = visible.new_ones((*visible.shape[:-1], encoder.pre_seq_len))
        visible = torch.cat((front, visible), dim=-1)  # [B, 1, T, P + S]
        store = PrefixedKeyValues(encoder(), dropout, seed=seed)
    targets = batch.labels[:, 1:]
    wanted = F.pad(targets != IGNORED_LABEL, (0, 1))  # [B, T]; nothing follows the last token
    logits = network(
        batch.input_ids.to(device),
        position_ids.to(device),
        visible.to(device),
        store,
        wanted=wanted.to(device),
    )  # [n, V]
    learnt = targets[wanted[:, :-1]].to(logits.device)
    return F.cross_entropy(logits.float(), learnt, label_smoothing=label_smoothing, reduction="none")


@torch.no_grad()
def mean_loss(
    network: Any,
    encoder: PrefixEncoder | None,
    batches: Sequence[Batch],
    device: torch.device,
    processes: Processes,
) -> float:
    """Mean loss of all learnt tokens of some batches, without dropout; processes share the work."""
    total = torch.zeros(2, dtype=torch.float64)
    for batch in batches[processes.rank :: processes.size]:
        losses = token_losses(network, batch, device, encoder).double().cpu()
        total += torch.stack((losses.sum(), torch.tensor(len(losses), dtype=torch.float64)))
    total = total.to(device) if device.type == "cuda" else total
    processes.sum([total])
    return float(total[0] / total[1])


def use_gradient_checkpointing(network: nn.Module) -> None:
    """Let every block forget what is inside it and compute it again for the gradients."""
    network.train()
    around: Any = partial(checkpoint, use_reentrant=False)
    parts: Iterable[Any] = network.modules()
    for part in parts:
        if hasattr(part, "gradient_checkpointing"):  # how transformers' own blocks are told, too
            part.gradient_checkpointing, part._gradient_checkpointing_func = True, around
