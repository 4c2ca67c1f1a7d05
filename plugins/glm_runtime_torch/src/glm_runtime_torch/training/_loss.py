"""The language-model loss of a batch of any family, with a trained prefix in front if there is one.

Axes: B rows · T tokens · S key positions · P prefix length · V vocabulary · n learnt tokens
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..network.decoder import IGNORED_LABEL
from ..network.layout import lay_out_batch
from ..network.prefix_encoder import PrefixedKeyValues, PrefixEncoder


def compute_token_losses(
    network: Any,
    input_ids: Tensor,
    labels: Tensor,
    device: torch.device,
    encoder: PrefixEncoder | None = None,
    *,
    dropout: float = 0.0,
    seed: int = 0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the cross entropy of every learnt token, float32 ``[n]``.

    Args:
        network: of any family of the runtime.
        input_ids: ``[B, T]`` int64, padded on the right.
        labels: ``[B, T]`` int64, `IGNORED_LABEL` where nothing is learnt.
        device: where the network is.
        encoder: makes the prefix; ``None`` = there is none.
        dropout: probability with which single elements of the prefix are dropped.
        seed: what is dropped follows from it, so a repeated step drops the same.
        label_smoothing: share of the target that is spread over the vocabulary.
    """
    position_ids, visible = lay_out_batch(network.find_layout, input_ids)
    store = None
    if encoder is not None:
        front = visible.new_ones((*visible.shape[:-1], encoder.pre_seq_len))
        visible = torch.cat((front, visible), dim=-1)  # [B, 1, T, P + S]
        store = PrefixedKeyValues(encoder(), dropout, seed=seed)
    targets = labels[:, 1:]
    # The head is applied to the positions before learnt tokens alone: of a large vocabulary the logits of
    # whole rows would be the largest tensor of a step.
    wanted = F.pad(targets != IGNORED_LABEL, (0, 1))  # [B, T]; nothing follows the last token
    logits = network(
        input_ids.to(device),
        position_ids.to(device),
        visible.to(device),
        store,
        wanted=wanted.to(device),
    )  # [n, V]
    learnt = targets[wanted[:, :-1]].to(logits.device)
    return F.cross_entropy(logits.float(), learnt, label_smoothing=label_smoothing, reduction="none")


def use_gradient_checkpointing(network: nn.Module) -> None:
    """Let every block forget its inner values and compute them again: less memory, more time."""
    network.train()
    around: Any = partial(checkpoint, use_reentrant=False)
    parts: Iterable[Any] = network.modules()
    for part in parts:
        if hasattr(part, "gradient_checkpointing"):  # how transformers' own blocks are told, too
            part.gradient_checkpointing, part._gradient_checkpointing_func = True, around
