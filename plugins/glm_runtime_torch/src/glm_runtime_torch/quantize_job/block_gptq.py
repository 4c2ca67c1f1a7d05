"""GPTQ over a whole checkpoint: one block's weights in memory at a time, read as they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from glm_core.errors import CheckpointError
from glm_core.records import QuantizationScheme

from ..checkpoints.reader import Checkpoint
from ..network.language_model import LanguageModel
from ..quantization.calibration import Passage, Walk
from ..quantization.formats import choose_scale_dtype, dequantize_rows, quantize_rows
from ..quantization.gptq import quantize_with_gptq
from ..quantization.network import StoredForm
from .plan import Shard, ShardUnit

CPU = torch.device("cpu")

Quantized = dict[str, tuple[Tensor, Tensor]]


class BlockGPTQ:
    """Quantises block after block; each sees what the quantised blocks before it make of the text.

    Computes in float32. Memory: one block's weights, the hidden states of all passages, and up to
    four square matrices of the widest layer's inputs (see `InputStatistics`); for ChatGLM-6B with
    128 passages of 512 tokens about 0.8 + 1.1 + 4.3 GB.

    Args:
        network: on the meta device, where all but the current block stay.
        checkpoint: the source.
        form: what is written.
        passages: example text.
    """

    def __init__(
        self, network: LanguageModel, checkpoint: Checkpoint, form: StoredForm, passages: Sequence[Passage]
    ) -> None:
        self._network = network
        self._checkpoint = checkpoint
        self._form = form
        self._scheme = QuantizationScheme(form.bits, form.group_size)
        self._passages = passages
        self._blocks_name, self._blocks = network.part_names.blocks, network.blocks
        self._table = f"{network.part_names.embedding}.weight"
        self._walk: Walk | None = None
        self._notices: list[str] = []

    @torch.inference_mode()
    def quantize(self, unit: ShardUnit) -> Quantized:
        """Return integers and scales of every linear layer of the next block, by the weight's name."""
        walk, block = self._begin(unit)
        result: Quantized = {}
        for name, linear in _list_linears(block):
            weight = f"{self._blocks_name}.{unit.block}.{name}.weight"
            dtype = choose_scale_dtype(self._checkpoint.get_facts(weight).dtype)
            statistics = walk.collect_statistics(block, linear)
            try:
                stored, scale, note = quantize_with_gptq(linear.weight, statistics, self._scheme, dtype)
            except ArithmeticError as error:
                raise CheckpointError(
                    f"{self._checkpoint.directory}: {weight} cannot be quantised with gptq: {error}; the "
                    "weights may be damaged. Compare the files with the model's page, or use --method rtn."
                ) from error
            if note:
                self._notices.append(f"{weight}: {note}")
            result[weight] = stored, scale
            self._replace(linear, stored, scale)
        self._end(walk, block)
        return result

    @torch.inference_mode()
    def pass_through(self, shard: Shard, path: Path) -> None:
        """Walk through the blocks of a file that an earlier run finished."""
        for unit in shard.units:
            if unit.block is None:
                continue
            walk, block = self._begin(unit)
            with safe_open(path, framework="pt", device="cpu") as file:
                for name, linear in _list_linears(block):
                    start = f"{self._blocks_name}.{unit.block}.{name}"
                    stored = file.get_tensor(f"{start}.weight"), file.get_tensor(f"{start}.weight_scale")
                    self._replace(linear, *stored)
            self._end(walk, block)

    def take_notices(self) -> list[str]:
        """Return what there is to tell a person since the last call."""
        notices, self._notices = self._notices, []
        return notices

    def _begin(self, unit: ShardUnit) -> tuple[Walk, nn.Module]:
        assert unit.block is not None
        if self._walk is None:
            self._walk = Walk(self._network, self._passages, self._embed)
        block = self._blocks[unit.block]
        for module_name, module in block.named_modules():
            for attribute, parameter in list(module.named_parameters(recurse=False)):
                start = ".".join(part for part in (self._blocks_name, str(unit.block), module_name) if part)
                value = self._checkpoint.read(f"{start}.{attribute}", dtype=torch.float32, device=CPU)
                assert value.shape == parameter.shape
                setattr(module, attribute, nn.Parameter(value, requires_grad=False))
        return self._walk, block.eval()

    def _end(self, walk: Walk, block: nn.Module) -> None:
        walk.advance(block)
        block.to("meta")

    def _replace(self, linear: nn.Linear, stored: Tensor, scale: Tensor) -> None:
        form = self._form
        value = dequantize_rows(stored, scale, form.bits, torch.float32, form.group_size)
        linear.weight = nn.Parameter(value, requires_grad=False)

    def _embed(self, token_ids: Tensor) -> Tensor:
        """Return embeddings as the result will have them; only the rows of these tokens are read."""
        form = self._form
        rows = self._checkpoint.read_rows(self._table, token_ids.flatten())
        if form.embeddings:
            stored, scale = quantize_rows(rows, form.bits, form.group_size)
            rows = dequantize_rows(stored, scale, form.bits, torch.float32, form.group_size)
        return rows.float().unflatten(0, token_ids.shape)


def _list_linears(block: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(name, module) for name, module in block.named_modules() if isinstance(module, nn.Linear)]
