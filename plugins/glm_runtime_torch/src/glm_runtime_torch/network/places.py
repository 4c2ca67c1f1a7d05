"""Where modules stand in a network, and the one way to walk to them and replace them.

Quantisation, backends and anything that wraps a layer (such as a low-rank addition) use `find_places`
and `Place.replace`, so that a module's name means the same to all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Place:
    """Where a module stands in a network.

    Attributes:
        name: full name, such as ``"transformer.layers.3.mlp.dense_h_to_4h"``.
        parent: the module that holds it.
        attribute: its name there.
    """

    name: str
    parent: nn.Module
    attribute: str

    @classmethod
    def from_name(cls, network: nn.Module, name: str) -> Place:
        """Return the place of a module by its full name.

        Raises:
            AttributeError: the network has no module of that name.
        """
        parent, _, attribute = name.rpartition(".")
        holder = network.get_submodule(parent)
        holder.get_submodule(attribute)
        return cls(name, holder, attribute)

    @property
    def module(self) -> Any:
        """The module that stands there now."""
        return getattr(self.parent, self.attribute)

    def replace(self, module: nn.Module) -> None:
        """Put another module there."""
        setattr(self.parent, self.attribute, module)


def find_places(
    network: nn.Module, wanted: Callable[[nn.Module], bool] = lambda module: True, *, name: str = ""
) -> list[Place]:
    """Return the place of every module below ``network`` that is wanted.

    A module that stands in two places is found in both. The list is complete before the caller replaces
    anything, so what is put in is not walked.

    Args:
        network: its own place is not among them.
        wanted: tells which modules to return.
        name: full name of ``network`` itself, which the names of the places begin with.
    """
    return list(_walk(network, wanted, name))


def _walk(parent: nn.Module, wanted: Callable[[nn.Module], bool], prefix: str) -> Iterator[Place]:
    for name, holder in parent.named_modules(prefix=prefix):
        for attribute, child in holder._modules.items():  # named_children names a shared module once
            if child is not None and wanted(child):
                yield Place(f"{name}.{attribute}" if name else attribute, holder, attribute)
