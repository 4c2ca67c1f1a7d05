"""The kit for backends: everything of this runtime that a backend may use, and nothing else is promised.

A backend imports from here and from ``glm_core`` alone. It says which devices there are, which kernels it
brings for them (`KernelSet`), and how much memory is free; the rest of the ``quantize`` and ``place`` hooks
is `quantize_model` and `place_model`. ``docs/plugins/backend-kit.md`` walks through a whole backend.

- **Kernels**: `KernelSet` and what its methods get and return.
- **Placing**: `quantize_model`, `place_model`, `place_in_host_memory`, `fit`, device maps.
- **Networks**: `LanguageModel` names the parts of any family's network; `find_places` walks through it.
- **Stored integers**: the form in which quantised weights arrive, for layers over them and their tests.
"""

from __future__ import annotations

from ..generation.executor import DecodeExecutor, EagerExecutor
from ..generation.step import StepInput
from ..model.device_map import DeviceMap, find_device_map, make_single_device_map
from ..model.fitting import Fit, fit
from ..model.torch_model import TorchModel
from ..network.attention import (
    DecodeAttention,
    RowNumbers,
    TorchDecodeAttention,
    compute_attention,
    takes_tensors,
)
from ..network.kv_cache import KVCache
from ..network.language_model import Dimensions, LanguageModel, PartNames
from ..network.places import Place, find_places
from ..network.rotary import Rotary
from ..quantization.formats import dequantize_rows, quantize_rows, unpack_int4
from ..quantization.layers import (
    QuantizedEmbedding,
    QuantizedLinear,
    dequantize_matrix,
    make_quantized_table,
)
from .installing import borrow_network, install_kernels
from .kernel_set import KernelSet
from .placing import place_in_host_memory, place_model, quantize_model
from .several_devices import load_on_devices
from .weight_only import WeightOnlyInt4Linear, WeightOnlyInt8Linear, freeze

__all__ = [
    "DecodeAttention",
    "DecodeExecutor",
    "DeviceMap",
    "Dimensions",
    "EagerExecutor",
    "Fit",
    "KVCache",
    "KernelSet",
    "LanguageModel",
    "PartNames",
    "Place",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "Rotary",
    "RowNumbers",
    "StepInput",
    "TorchDecodeAttention",
    "TorchModel",
    "WeightOnlyInt4Linear",
    "WeightOnlyInt8Linear",
    "borrow_network",
    "compute_attention",
    "dequantize_matrix",
    "dequantize_rows",
    "find_device_map",
    "find_places",
    "fit",
    "freeze",
    "install_kernels",
    "load_on_devices",
    "make_quantized_table",
    "make_single_device_map",
    "place_in_host_memory",
    "place_model",
    "quantize_model",
    "quantize_rows",
    "takes_tensors",
    "unpack_int4",
]
