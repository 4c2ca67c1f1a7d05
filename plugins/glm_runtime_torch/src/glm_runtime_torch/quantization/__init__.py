"""Weight-only quantisation: the stored formats, reference layers, and which parts of a network they replace.

- `formats`: integers and scales, bit-equal to the published checkpoints where they have one per row.
- `layers`: plain PyTorch layers over them; a backend puts its own in their place.
- `network`: which layers of a network are quantised, and how ``config.json`` says so.
- `streaming`: the same straight from files, a piece at a time.
- `gptq`, `calibration`: better integers for the same formats, found with example text.
"""

from __future__ import annotations

from .formats import (
    BITS,
    GROUP_SIZES,
    SCHEMES,
    check_format,
    dequantize_rows,
    pack_int4,
    quantize_pieces,
    quantize_rows,
    unpack_int4,
)
from .layers import QuantizedEmbedding, QuantizedLinear, make_quantized_table
from .network import (
    TABLE_SCHEME,
    StoredForm,
    check_linears,
    expect_stored_form,
    quantize_in_place,
)
from .streaming import quantize_from_files, quantize_stored

__all__ = [
    "BITS",
    "GROUP_SIZES",
    "SCHEMES",
    "TABLE_SCHEME",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "StoredForm",
    "check_format",
    "check_linears",
    "dequantize_rows",
    "expect_stored_form",
    "make_quantized_table",
    "pack_int4",
    "quantize_from_files",
    "quantize_in_place",
    "quantize_pieces",
    "quantize_rows",
    "quantize_stored",
    "unpack_int4",
]
