"""The way of hidden states through a network whose parts are on several devices.

A network on one device has no route, and pays nothing for the possibility.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .rotary import Rotary

Move = Callable[[Tensor, torch.device], Tensor]


def move_tensor(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device, without waiting for the copy where the device keeps its own order."""
    return tensor.to(device, non_blocking=device.type == "cuda" and tensor.device.type == "cuda")


class DeviceRoute:
    """The devices of a network's parts, in the order in which hidden states pass them.

    Args:
        embedding: device of the embedding table.
        blocks: device of each block.
        norm: device of the final norm.
        head: device of the head.
        move: copies one tensor to a device.
    """

    def __init__(
        self,
        embedding: torch.device,
        blocks: Sequence[torch.device],
        norm: torch.device,
        head: torch.device,
        *,
        move: Move = move_tensor,
    ) -> None:
        self.embedding = embedding
        self.blocks = tuple(blocks)
        self.norm = norm
        self.head = head
        self._move = move
        way = (embedding, *self.blocks, norm, head)
        self._leaves = tuple(before != after for before, after in pairwise(way))

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Every device once, in the order of the way."""
        return tuple(dict.fromkeys((self.embedding, *self.blocks, self.norm, self.head)))

    def to_block(
        self, layer: int, h: Tensor, rotary: Rotary, mask: Tensor | None = None
    ) -> tuple[Tensor, Rotary, Tensor | None]:
        """Move hidden states, angles and mask to the device of a block; copies only where that is another."""
        if not self._leaves[layer]:
            return h, rotary, mask
        device = self.blocks[layer]
        moved = Rotary(self._move(rotary.cos, device), self._move(rotary.sin, device))
        return self._move(h, device), moved, None if mask is None else self._move(mask, device)

    def to_norm(self, h: Tensor) -> Tensor:
        """Move hidden states to the device of the final norm."""
        return self._move(h, self.norm) if self._leaves[-2] else h

    def to_head(self, h: Tensor) -> Tensor:
        """Move hidden states to the device of the head."""
        return self._move(h, self.head) if self._leaves[-1] else h
