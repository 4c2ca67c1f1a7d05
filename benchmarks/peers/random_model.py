"""Write a model of ChatGLM-6B's size with random weights, in a peer engine's own file format.

    python benchmarks/peers/random_model.py chatglm.cpp OUT.ggml [--type q4_0] [--layers 28]
    python benchmarks/peers/random_model.py llama.cpp   OUT.gguf [--type q4_0] [--layers 28]

Speed does not depend on the weights' values, so no published weights are needed. Tensors are written
one after another in pieces of 32 MB; every quantised block has the same scale, which gives weights
of about the usual size (standard deviation 0.02). README.md says what of the two files is
ChatGLM-6B's own and what stands in for it. Needs numpy, and for llama.cpp its own ``gguf`` package.
"""

from __future__ import annotations

import argparse
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy

HIDDEN, HEADS, INNER, VOCABULARY, CONTEXT = 4096, 32, 16384, 130528, 2048
EPSILON = 1e-5
ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "plugins/glm_model_demo/src/glm_model_demo/model/ice_text.model"
BLOCK = 32  # weights that share a scale, in both types
PIECE_BLOCKS = 2**20


@dataclass(frozen=True)
class BlockType:
    """A quantised type of ggml.

    Attributes:
        number: in both file formats.
        integer_bytes: of the integers of one block; two bytes of scale stand before them.
        scale: makes random integers a standard deviation of 0.02.
        file_type: what llama.cpp calls a whole file of this type.
    """

    number: int
    integer_bytes: int
    scale: float
    file_type: int

    @property
    def block_bytes(self) -> int:
        """Bytes of a block."""
        return 2 + self.integer_bytes


TYPES = {"q4_0": BlockType(2, 16, 0.02 / 4.6, 2), "q8_0": BlockType(8, 32, 0.02 / 74, 7)}


def main() -> None:
    """Write the file that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", choices=("chatglm.cpp", "llama.cpp"))
    parser.add_argument("path", type=Path)
    parser.add_argument("--type", choices=sorted(TYPES), default="q4_0")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument(
        "--tokenizer", type=Path, default=TOKENIZER, help="any ice_text.model; for chatglm.cpp"
    )
    options = parser.parse_args()
    weights = RandomBlocks(TYPES[options.type])
    partial = options.path.with_name(options.path.name + ".part")  # a killed run leaves no half model
    if options.engine == "chatglm.cpp":
        with partial.open("wb") as file:
            write_ggml(file, weights, options.layers, options.tokenizer.read_bytes())
    else:
        write_gguf(partial, weights, options.layers)
    partial.replace(options.path)
    print(f"{options.path}: {options.path.stat().st_size / 1e9:.2f} GB")


class RandomBlocks:
    """Random quantised matrices of one type, a piece at a time."""

    def __init__(self, kind: BlockType) -> None:
        self.kind = kind
        self._random = numpy.random.default_rng(0)

    def count_bytes(self, rows: int, columns: int) -> int:
        """Count the bytes of a matrix."""
        return rows * columns // BLOCK * self.kind.block_bytes

    def generate_pieces(self, rows: int, columns: int) -> Iterator[numpy.ndarray]:
        """Generate the bytes of a matrix, some blocks at a time, uint8 ``[blocks, block_bytes]``."""
        left = rows * columns // BLOCK
        while left:
            count = min(left, PIECE_BLOCKS)
            left -= count
            blocks = self._random.integers(0, 256, (count, self.kind.block_bytes), dtype=numpy.uint8)
            blocks[:, :2] = numpy.frombuffer(struct.pack("<e", self.kind.scale), numpy.uint8)
            yield blocks


def write_ggml(file: BinaryIO, weights: RandomBlocks, num_layers: int, tokenizer: bytes) -> None:
    """Write the format of chatglm.cpp 0.4: header, vocabulary, then each tensor with its name and shape."""
    no_token = -1  # as the end of an answer: random answers then always have the length asked for
    file.write(b"ggml")
    file.write(struct.pack("<ii", 1, 2))  # ChatGLM-6B; second version of the header
    kind = weights.kind.number
    file.write(struct.pack("<iiiiiii", kind, VOCABULARY, HIDDEN, HEADS, HEADS, num_layers, INNER))
    file.write(struct.pack("<fifiii", EPSILON, 0, 10000.0, CONTEXT, no_token, 3))
    file.write(struct.pack("<i", len(tokenizer)))
    file.write(tokenizer)

    def start_tensor(name: str, shape: tuple[int, ...], number: int) -> None:
        encoded = name.encode()
        file.write(struct.pack("<i", len(encoded)) + encoded)
        file.write(struct.pack(f"<{2 + len(shape)}i", len(shape), *shape, number))
        file.write(bytes(-file.tell() % 16))

    def write_matrix(name: str, rows: int, columns: int) -> None:
        start_tensor(name, (rows, columns), kind)
        for piece in weights.generate_pieces(rows, columns):
            piece.tofile(file)

    def write_vector(name: str, size: int, value: float) -> None:
        start_tensor(name, (size,), 0)
        numpy.full(size, value, numpy.float32).tofile(file)

    def write_norm(name: str) -> None:
        write_vector(f"{name}.weight", HIDDEN, 1.0)
        write_vector(f"{name}.bias", HIDDEN, 0.0)

    def write_linear(name: str, out_features: int, in_features: int) -> None:
        write_matrix(f"{name}.weight", out_features, in_features)
        write_vector(f"{name}.bias", out_features, 0.0)

    write_matrix("transformer.word_embeddings.weight", VOCABULARY, HIDDEN)
    for layer in range(num_layers):
        prefix = f"transformer.layers.{layer}"
        write_norm(f"{prefix}.input_layernorm")
        write_linear(f"{prefix}.attention.query_key_value", 3 * HIDDEN, HIDDEN)
        write_linear(f"{prefix}.attention.dense", HIDDEN, HIDDEN)
        write_norm(f"{prefix}.post_attention_layernorm")
        write_linear(f"{prefix}.mlp.dense_h_to_4h", INNER, HIDDEN)
        write_linear(f"{prefix}.mlp.dense_4h_to_h", HIDDEN, INNER)
    write_norm("transformer.final_layernorm")


def write_gguf(path: Path, weights: RandomBlocks, num_layers: int) -> None:
    """Write GGUF of the architecture ``gptneox``, whose matrices and biases have ChatGLM-6B's shapes."""
    import gguf  # here, because only this format needs it

    writer = gguf.GGUFWriter(path, "gptneox")
    writer.add_name("random weights in the shapes of ChatGLM-6B")
    writer.add_file_type(weights.kind.file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(num_layers)
    writer.add_feed_forward_length(INNER)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_head_count(HEADS)
    writer.add_parallel_residual(False)
    writer.add_layer_norm_eps(EPSILON)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("no_vocab")
    tensors = dict(_list_gguf_tensors(num_layers))
    kind = gguf.GGMLQuantizationType(weights.kind.number)
    for name, shape in tensors.items():
        if len(shape) == 2:
            writer.add_tensor_info(name, shape, numpy.dtype(numpy.int8), weights.count_bytes(*shape), kind)
        else:
            writer.add_tensor_info(name, shape, numpy.dtype(numpy.float32), 4 * shape[0])
    writer.open_output_file(path)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("ab") as file:
        for name, shape in tensors.items():
            file.write(bytes(-file.tell() % gguf.GGUF_DEFAULT_ALIGNMENT))
            if len(shape) == 2:
                for piece in weights.generate_pieces(*shape):
                    piece.tofile(file)
            else:
                value = 1.0 if name.endswith("norm.weight") else 0.0
                numpy.full(shape, value, numpy.float32).tofile(file)
        file.write(bytes(-file.tell() % gguf.GGUF_DEFAULT_ALIGNMENT))


def _list_gguf_tensors(num_layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """List names and shapes ``(out, in)`` of all tensors."""
    yield "token_embd.weight", (VOCABULARY, HIDDEN)
    for layer in range(num_layers):
        for norm in ("attn_norm", "ffn_norm"):
            yield f"blk.{layer}.{norm}.weight", (HIDDEN,)
            yield f"blk.{layer}.{norm}.bias", (HIDDEN,)
        matrices = {
            "attn_qkv": (3 * HIDDEN, HIDDEN),
            "attn_output": (HIDDEN, HIDDEN),
            "ffn_up": (INNER, HIDDEN),
            "ffn_down": (HIDDEN, INNER),
        }
        for name, shape in matrices.items():
            yield f"blk.{layer}.{name}.weight", shape
            yield f"blk.{layer}.{name}.bias", shape[:1]
    yield "output_norm.weight", (HIDDEN,)
    yield "output_norm.bias", (HIDDEN,)
    yield "output.weight", (VOCABULARY, HIDDEN)


if __name__ == "__main__":
    main()
