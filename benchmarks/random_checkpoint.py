"""A ChatGLM-6B (v1) checkpoint of any size with random weights, in float16 or quantised already.

    python benchmarks/random_checkpoint.py DIRECTORY                            # 12.3 GB: ChatGLM-6B's size
    python benchmarks/random_checkpoint.py DIRECTORY --form int4 [--embeddings]  # 3.9 GB, or 3.1 GB
    python benchmarks/random_checkpoint.py DIRECTORY --layers 4 --hidden 2048 --vocabulary 8000

Speed does not depend on the weights' values. Tensors are written a few MB at a time into shards, so
memory stays small; ``config.json`` comes last, so a directory that has one is complete. The
vocabulary is the demo model's: ids beyond it are decoded to nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import sentencepiece
import torch
from glm_runtime_torch.architectures.chatglm import ChatGLM, ChatGLMConfig
from glm_runtime_torch.architectures.chatglm2 import ChatGLM2, ChatGLM2Config
from glm_runtime_torch.network.empty_weights import build_without_weights
from glm_runtime_torch.quantization import expect_stored_form
from glm_runtime_torch.tokenizers.chatglm3 import ChatGLM3Tokenizer
from torch import Tensor, nn

import glm_core
from glm_core.records import QuantizationScheme

NUM_LAYERS, HIDDEN_SIZE, VOCABULARY = 28, 4096, 130528
SHARD_BYTES = 2 * 10**9
PIECE_ELEMENTS = 2**22
WEIGHT_DEVIATION = 0.02
DTYPES = {torch.float16: "F16", torch.int8: "I8"}


def main() -> None:
    """Write the checkpoint that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--layers", type=int, default=NUM_LAYERS)
    parser.add_argument("--hidden", type=int, default=HIDDEN_SIZE)
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    parser.add_argument("--form", default="float16", help="float16, int8, int4, int4-g32 and the like")
    parser.add_argument("--embeddings", action="store_true", help="quantise the embedding table as well")
    options = parser.parse_args()
    directory = write_checkpoint(
        options.directory,
        num_layers=options.layers,
        hidden_size=options.hidden,
        vocab_size=options.vocabulary,
        form=options.form,
        embeddings=options.embeddings,
    )
    size = sum(path.stat().st_size for path in directory.iterdir())
    print(f"{directory}: {size / 1e9:.2f} GB")


def write_checkpoint(
    directory: Path,
    *,
    num_layers: int,
    hidden_size: int,
    vocab_size: int | None = None,
    form: str = "float16",
    embeddings: bool = False,
) -> Path:
    """Write weights, vocabulary and configuration; the head dim is 128 as in ChatGLM-6B.

    Args:
        directory: made if it is not there.
        num_layers: blocks.
        hidden_size: a multiple of 128.
        vocab_size: rows of the embedding table; ``None`` = the demo model's.
        form: ``float16``, or a quantisation scheme such as ``int4`` or ``int4-g128``.
        embeddings: whether the embedding table is quantised as well.

    Raises:
        SystemExit: the disk has not enough room.
    """
    demo = glm_core.resolve_model("demo")
    config = json.loads((demo / "config.json").read_text("utf-8")) | {
        "num_layers": num_layers,
        "hidden_size": hidden_size,
        "inner_hidden_size": 4 * hidden_size,
        "num_attention_heads": max(1, hidden_size // 128),
    }
    if vocab_size is not None:
        config["vocab_size"] = vocab_size
    if form != "float16":
        scheme = QuantizationScheme.parse(form)
        config |= {"quantization_bit": scheme.bits, "quantization_embeddings": embeddings}
        config |= {"quantization_group_size": scheme.group_size} if scheme.group_size else {}
    with build_without_weights():
        network = ChatGLM(ChatGLMConfig.from_checkpoint(config))
    shapes = _collect_shapes(network, config)
    directory.mkdir(parents=True, exist_ok=True)
    needed, free = sum(map(_count_bytes, shapes.values())), shutil.disk_usage(directory).free
    if needed > free:
        raise SystemExit(f"{directory}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")
    (directory / "config.json").unlink(missing_ok=True)
    _write_shards(directory, shapes, int(config.get("quantization_bit", 0)))
    shutil.copyfile(demo / "ice_text.model", directory / "ice_text.model")
    (directory / "config.json").write_text(json.dumps(config, indent=2), "utf-8")
    return directory


def write_chatglm3_checkpoint(directory: Path, *, num_layers: int, hidden_size: int) -> Path:
    """Write a ChatGLM3 checkpoint of random float16 weights, with a vocabulary of its own.

    Args:
        directory: made if it is not there.
        num_layers: blocks.
        hidden_size: a multiple of 128, the head dim; two groups of keys and values.
    """
    directory.mkdir(parents=True, exist_ok=True)
    text = Path(__file__).parent.parent / "plugins/glm_model_demo/training/text"
    with (directory / "tokenizer.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            input=sorted(map(str, text.glob("*.txt"))),
            model_writer=file,
            vocab_size=4000,
            hard_vocab_limit=False,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            minloglevel=2,
        )
    config = {
        "model_type": "chatglm",
        "_name_or_path": "THUDM/chatglm3-6b",
        "hidden_size": hidden_size,
        "num_layers": num_layers,
        "num_attention_heads": hidden_size // 128,
        "kv_channels": 128,
        "multi_query_attention": True,
        "multi_query_group_num": 2,
        "ffn_hidden_size": hidden_size * 3344 // 1000,
        "padded_vocab_size": ChatGLM3Tokenizer(directory).vocab_size,
        "seq_length": 8192,
        "eos_token_id": 2,
    }
    with build_without_weights():
        network = ChatGLM2(ChatGLM2Config.from_checkpoint(config))
    _write_shards(directory, _collect_shapes(network, config), 0)
    (directory / "config.json").write_text(json.dumps(config, indent=2), "utf-8")
    return directory


def _collect_shapes(network: nn.Module, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Collect every stored tensor by its name, as a tensor without data."""
    with build_without_weights():
        expect_stored_form(network, config)
    return {
        name: parameter.to("meta", torch.int8 if parameter.dtype == torch.int8 else torch.float16)
        for name, parameter in network.named_parameters()
    }


def _write_shards(directory: Path, shapes: Mapping[str, Tensor], bits: int) -> None:
    shards: list[dict[str, Tensor]] = [{}]
    for name, tensor in shapes.items():
        if shards[-1] and sum(map(_count_bytes, shards[-1].values())) + _count_bytes(tensor) > SHARD_BYTES:
            shards.append({})
        shards[-1][name] = tensor
    generator = torch.Generator().manual_seed(0)
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        single = "model.safetensors"
        file_name = single if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        places |= dict.fromkeys(shard, file_name)
        with (directory / file_name).open("wb") as file:
            _write_shard(file, shard, bits, generator)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(map(_count_bytes, shapes.values()))}, "weight_map": places}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), "utf-8")


def _write_shard(file: BinaryIO, shard: Mapping[str, Tensor], bits: int, generator: torch.Generator) -> None:
    """Write one safetensors file: length of the header, header, bytes of the tensors in its order."""
    header: dict[str, Any] = {}
    offset = 0
    for name, tensor in shard.items():
        end = offset + _count_bytes(tensor)
        kind = DTYPES[tensor.dtype]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    file.write(struct.pack("<Q", len(encoded)) + encoded)
    for name, tensor in shard.items():
        for piece in _generate_pieces(name, tensor, bits, generator):
            piece.numpy().tofile(file)


def _generate_pieces(name: str, tensor: Tensor, bits: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Generate the elements of a tensor, some at a time; matrices have a standard deviation of 0.02."""
    largest = 2 ** (bits - 1) - 1 if bits else 0
    left = tensor.numel()
    while left:
        count = min(left, PIECE_ELEMENTS)
        left -= count
        if tensor.dtype == torch.int8:
            yield _draw_integers(count, largest, bits, generator)
        elif name.endswith("weight_scale"):
            deviation = math.sqrt(largest * (largest + 1) / 3)  # of whole numbers from -largest to largest
            yield (
                (torch.rand(count, generator=generator) * 0.2 + 0.9).mul_(WEIGHT_DEVIATION / deviation).half()
            )
        elif name.endswith("layernorm.weight"):
            yield torch.ones(count, dtype=torch.float16)
        else:
            yield torch.randn(count, generator=generator).mul_(WEIGHT_DEVIATION).half()


def _draw_integers(count: int, largest: int, bits: int, generator: torch.Generator) -> Tensor:
    """Draw stored bytes: one integer each, or two of four bits."""

    def draw() -> Tensor:
        return torch.randint(-largest, largest + 1, (count,), dtype=torch.int8, generator=generator)

    return draw() if bits == 8 else (draw() << 4) | (draw() & 15)


def _count_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


if __name__ == "__main__":
    main()
