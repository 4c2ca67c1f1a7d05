"""Example text for GPTQ: read from a file, and walked through a network one block at a time.

A file is UTF-8 text with one passage a line, or JSON lines with ``{"text": ...}`` or ``{"prompt":
..., "response": ...}``. Of plain text the first half becomes the context and the second half the
answer, so that both kinds of position are seen.

Axes: B batch (1 here) · T tokens · D hidden
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glm_core import Message
from glm_core.errors import ConfigError

from ..network.attention import build_visibility_mask
from ..network.language_model import LanguageModel
from ..network.places import Place
from ..tokenizers import ChatTokenizer
from .gptq import InputStatistics

# 65,536 tokens at most, because their hidden states take 1 GB for ChatGLM-6B and the work grows with them.
# The paper calibrates with 128 passages too.
MAX_PASSAGES = 128
MAX_TOKENS = 512
CONTROL_TOKENS = 8  # room for what a family puts around a text
MAX_FILE_BYTES = 64 * 2**20  # the whole file is read into memory; far more than that many passages need


@dataclass(frozen=True)
class Passage:
    """One example: what is asked, and what the model would go on with."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def token_ids(self) -> list[int]:
        """The whole sequence, `MAX_TOKENS` at most."""
        return [*self.prompt, *self.answer][:MAX_TOKENS]


def read_passages(path: Path, tokenizer: ChatTokenizer) -> list[Passage]:
    """Return up to `MAX_PASSAGES` passages, evenly spread over the file.

    Raises:
        ConfigError: the file is missing, too large, no such text, or holds no passage.
    """
    lines = _read_lines(path)
    if len(lines) > MAX_PASSAGES:
        lines = [lines[index * len(lines) // MAX_PASSAGES] for index in range(MAX_PASSAGES)]
    return [_parse_passage(path, number, line, tokenizer) for number, line in lines]


def _read_lines(path: Path) -> list[tuple[int, str]]:
    """Return the lines that are not empty, with their numbers."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe may wait, a device never end
            raise ConfigError(f"calibration file {path} is a pipe, socket or device; pass a text file")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ConfigError(
                f"calibration file {path} has {size:,} bytes; {MAX_FILE_BYTES:,} at most are read. "
                f"{MAX_PASSAGES} passages are enough: take a part of it."
            )
        text = path.read_text("utf-8-sig")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(
            f"calibration file {path} cannot be read: {reason}; pass a text file with one passage a line"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"calibration file {path} is not UTF-8 text ({error.reason} at byte {error.start}); "
            "convert it first"
        ) from error
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise ConfigError(
            f"calibration file {path} is empty; it needs text that the model will meet, one passage a line"
        )
    return lines


def _parse_passage(path: Path, number: int, line: str, tokenizer: ChatTokenizer) -> Passage:
    if not line.lstrip().startswith("{"):
        return _split_text(line.strip(), tokenizer)
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:  # RecursionError: thousands of brackets
        raise ConfigError(f"calibration file {path}, line {number}: not valid JSON ({error})") from error
    if isinstance(row.get("text"), str):
        return _split_text(row["text"], tokenizer)
    prompt, response = row.get("prompt"), row.get("response")
    if not isinstance(prompt, str) or not isinstance(response, str):
        raise ConfigError(
            f'calibration file {path}, line {number}: expected {{"text": ...}} or {{"prompt": ..., '
            f'"response": ...}}, got the keys {", ".join(row) or "none"}'
        )
    question = _truncate_text(prompt, MAX_TOKENS // 2, tokenizer)
    answer = [*tokenizer.encode(response), *sorted(tokenizer.stop_token_ids)[:1]]
    return Passage(tuple(tokenizer.encode_chat((Message("user", question),))), tuple(answer))


def _split_text(text: str, tokenizer: ChatTokenizer) -> Passage:
    text = _truncate_text(text, MAX_TOKENS - CONTROL_TOKENS, tokenizer)
    half = len(text) // 2
    return Passage(tuple(tokenizer.encode_completion(text[:half])), tuple(tokenizer.encode(text[half:])))


def _truncate_text(text: str, num_tokens: int, tokenizer: ChatTokenizer) -> str:
    """Return the beginning of a text, so short that it has about that many tokens at most."""
    length = len(tokenizer.encode(text))
    return text if length <= num_tokens else text[: len(text) * num_tokens // length]


class Walk:
    """The hidden states of all passages, taken through the network one block at a time, in float32.

    Between blocks they take ``4 * D`` bytes a token: 1.07 GB for 65,536 tokens of ChatGLM-6B.

    Args:
        network: its blocks and embeddings may be on the meta device; it calls its blocks in order with
            the hidden states ``[B, T, D]`` first.
        passages: what to walk with.
        embed: ids ``[B, T]`` to embeddings ``[B, T, D]``.
    """

    def __init__(
        self, network: LanguageModel, passages: Sequence[Passage], embed: Callable[[Tensor], Tensor]
    ) -> None:
        self._hidden: list[Tensor] = []
        self._arguments: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        replaced = network.embedding_place, Place.from_name(network, network.part_names.name_block(0))
        modules = [place.module for place in replaced]
        try:
            for place, function in zip(replaced, (embed, self._begin), strict=True):
                place.replace(_FunctionModule(function))
            for passage in passages:
                self._enter(network, passage)
        finally:
            for place, module in zip(replaced, modules, strict=True):
                place.replace(module)

    def collect_statistics(self, block: nn.Module, linear: nn.Linear) -> InputStatistics:
        """Return what reaches a linear layer of the next block; nothing after it is computed."""
        found = InputStatistics(linear.in_features)

        def watch(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            found.add(inputs[0])
            raise _Reached

        handle = linear.register_forward_pre_hook(watch)
        try:
            for h, (arguments, keywords) in zip(self._hidden, self._arguments, strict=True):
                with contextlib.suppress(_Reached):
                    block(h, *arguments, **keywords)
        finally:
            handle.remove()
        return found

    def advance(self, block: nn.Module) -> None:
        """Replace the hidden states by the block's outputs, one passage at a time."""
        inputs = zip(self._hidden, self._arguments, strict=True)
        for index, (h, (arguments, keywords)) in enumerate(inputs):
            self._hidden[index] = block(h, *arguments, **keywords)

    def _enter(self, network: LanguageModel, passage: Passage) -> None:
        ids = passage.token_ids
        layout = network.find_layout(passage.prompt)
        mask = build_visibility_mask(
            torch.arange(len(ids)).unsqueeze(0), torch.tensor([layout.context_length]), len(ids)
        )
        positions = layout.compute_position_ids(0, len(ids)).unsqueeze(0)
        with contextlib.suppress(_Reached):
            network(torch.tensor([ids]), positions, mask)

    def _begin(self, h: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        self._hidden.append(h)
        self._arguments.append((arguments, keywords))
        raise _Reached


class _Reached(Exception):  # noqa: N818 - no error: the forward pass came as far as it should
    """Ends a forward pass early."""


class _FunctionModule(nn.Module):
    """Wraps a function as a module, so that it can stand in a module's place."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *arguments: Any, **keywords: Any) -> Tensor:
        """Call it."""
        return self._function(*arguments, **keywords)
