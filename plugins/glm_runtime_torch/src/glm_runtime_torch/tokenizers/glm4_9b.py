"""The tokenizer of GLM-4-9B in its first form (``model_type`` chatglm): byte pairs in tiktoken's file format.

Format: ``tokenizer.model`` as published, one line ``BASE64 RANK`` a token. The control tokens follow
the last rank in a fixed order. GLM-4-9B-hf and later models have a ``tokenizer.json`` instead.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from glm_core import CheckpointError, Message, PluginError

from ..checkpoints.integrity import MAX_VOCABULARY_BYTES, has_file, read_small_file
from .reply_filter import ReplyFilter
from .training_rows import TrainingIds, join_prompt_and_answer

if TYPE_CHECKING:
    import tiktoken

VOCABULARY_FILE = "tokenizer.model"
# How text is cut before byte pairs are merged: contractions, words, numbers of at most three digits,
# punctuation, line ends, blanks.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CONTROL_TOKENS = (
    *("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"),
    *("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
    *("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
)
END_TOKENS = ("<|endoftext|>", "<|user|>", "<|observation|>")


class GLM4Tokenizer:
    """Text to ids and back, and the role format of GLM-4-9B-Chat.

    Written from published facts: no reference ids of this tokenizer were at hand to compare with.

    Args:
        directory: holds ``tokenizer.model``.

    Raises:
        CheckpointError: the vocabulary is missing or damaged.
        PluginError: tiktoken is not installed.
    """

    def __init__(self, directory: str | Path) -> None:
        self._bytes = _read_byte_pairs(Path(directory) / VOCABULARY_FILE)
        self._num_pieces = self._bytes.n_vocab
        self._control = {name: self._num_pieces + i for i, name in enumerate(CONTROL_TOKENS)}
        self.vocab_size = self._num_pieces + len(self._control)
        self.stop_token_ids = frozenset(self._control[name] for name in END_TOKENS)
        self.pad_token_id = self._control[END_TOKENS[0]]

    def encode(self, text: str) -> list[int]:
        """Return ids of plain text; control tokens typed as text stay text."""
        return self._bytes.encode_ordinary(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids; control tokens and ids beyond the vocabulary leave nothing behind."""
        return self._bytes.decode([token for token in token_ids if 0 <= token < self._num_pieces])

    def encode_completion(self, text: str) -> list[int]:
        """Return ids of bare text after ``[gMASK] <sop>``."""
        return [self._control["[gMASK]"], self._control["<sop>"], *self.encode(text)]

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Return ids of a conversation: each message after its role's token, then the assistant's token."""
        ids = self.encode_completion("")
        for message in messages:
            ids += [self._control[f"<|{message.role}|>"], *self.encode("\n"), *self.encode(message.content)]
        return [*ids, self._control["<|assistant|>"]]

    def encode_training_row(
        self, messages: Sequence[Message], answer: str, max_source_length: int, max_target_length: int
    ) -> TrainingIds:
        """Return prompt, answer and end; every message begins with a line end, see `encode_chat`."""
        learnt = [*self.encode("\n"), *self.encode(answer)]
        prompt, end = self.encode_chat(messages), self._control[END_TOKENS[0]]
        return join_prompt_and_answer(
            prompt, learnt, end, max_source_length, max_target_length, kept_at_end=1
        )

    def make_reply_filter(self) -> ReplyFilter:
        """Return a filter that strips outer whitespace: an answer begins with a line end."""
        return ReplyFilter()


def _read_byte_pairs(path: Path) -> tiktoken.Encoding:
    if not has_file(path):
        raise CheckpointError(
            f"{path} is missing: the tokenizer's vocabulary. Take it from the model's page."
        )
    try:
        import tiktoken  # an extra: this family alone needs it
    except ImportError as error:
        raise PluginError(
            'the tokenizer of GLM-4-9B needs one more package: pip install "glm-runtime-torch[glm4]"'
        ) from error
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(read_small_file(path, MAX_VOCABULARY_BYTES).splitlines(), start=1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise CheckpointError(
                f"{path}, line {number}: {line[:40]!r} is no BASE64 RANK pair; the file is damaged or cut "
                "off, or of another family. Download it again."
            ) from error
    try:
        return tiktoken.Encoding("glm4", pat_str=SPLIT, mergeable_ranks=ranks, special_tokens={})
    except Exception as error:  # the library panics on ranks that make no vocabulary
        raise CheckpointError(f"{path} makes no vocabulary ({error}); download it again.") from error
