"""The kit for backends offers exactly these names, and they are documented."""

from __future__ import annotations

from pathlib import Path

from glm_runtime_torch import backends

SURFACE = [
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
GUIDE = Path(__file__).parents[3] / "docs" / "plugins" / "backend-kit.md"


def test_public_names_are_exactly_these() -> None:
    """A name is added to or taken from the kit on purpose only."""
    assert sorted(backends.__all__) == SURFACE
    assert all(hasattr(backends, name) for name in SURFACE)


def test_every_name_is_in_the_guide() -> None:
    """docs/plugins/backend-kit.md names all of them, and every method of a kernel set."""
    text = GUIDE.read_text("utf-8")
    methods = [name for name in vars(backends.KernelSet) if not name.startswith("_")]
    assert [name for name in [*SURFACE, *methods] if f"`{name}" not in text] == []
