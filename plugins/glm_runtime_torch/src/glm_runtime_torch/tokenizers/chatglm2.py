"""ChatGLM2-6B: its vocabulary, and its chat format of numbered rounds.

Vocabulary: ``tokenizer.model`` as published (SentencePiece, 64,789 pieces). The control tokens have no piece:
their ids follow the vocabulary's, in a fixed order.
Chat format: ``[gMASK] sop``, then rounds counted from 1; see `format_chat`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from glm_core import Message

from .chatglm import REPLY_REPLACEMENTS, split_rounds
from .reply_filter import ReplyFilter
from .training_rows import TrainingIds, join_prompt_and_answer
from .vocabulary import load_vocabulary

VOCABULARY_FILE = "tokenizer.model"


class ChatGLM2Tokenizer:
    """Text to ids and back, and the round format of ChatGLM2.

    Control tokens typed as text stay text; ids of control tokens decode to nothing.

    Args:
        directory: holds ``tokenizer.model``.

    Raises:
        CheckpointError: the vocabulary is missing, unreadable, or a Git LFS pointer.
    """

    control_tokens: ClassVar[tuple[str, ...]] = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
    end_tokens: ClassVar[tuple[str, ...]] = ()

    def __init__(self, directory: str | Path) -> None:
        self.pieces = load_vocabulary(Path(directory) / VOCABULARY_FILE)
        self._num_pieces: int = self.pieces.get_piece_size()
        self._control = {name: self._num_pieces + i for i, name in enumerate(self.control_tokens)}
        self.vocab_size = self._num_pieces + len(self._control)
        self.eos_token_id: int = self.pieces.eos_id()
        self.pad_token_id: int = self.pieces.unk_id()
        self.stop_token_ids = frozenset(
            {self.eos_token_id, *(self._control[name] for name in self.end_tokens)}
        )

    def encode(self, text: str) -> list[int]:
        """Return ids of plain text."""
        return self.pieces.encode(text)

    def tokenize(self, text: str) -> list[str]:
        """Return the pieces of `encode` as text."""
        return self.pieces.encode(text, out_type=str)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids; control tokens, padding and unknown ids leave nothing behind."""
        return self.pieces.decode(
            [token for token in token_ids if self.pad_token_id < token < self._num_pieces]
        )

    def get_control_token_id(self, name: str) -> int:
        """Return the id of a control token, such as ``"[gMASK]"``."""
        return self._control[name]

    def encode_completion(self, text: str) -> list[int]:
        """Return ids of bare text after ``[gMASK] sop``, as the original's ``__call__`` gives."""
        return [*self._start, *self.encode(text)]

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Return ids of a conversation in the original's round format; see `format_chat`."""
        return self.encode_completion(format_chat(messages))

    def encode_training_row(
        self, messages: Sequence[Message], answer: str, max_source_length: int, max_target_length: int
    ) -> TrainingIds:
        """Return the original trainer's layout: prompt, answer, end; the prompt's control tokens count."""
        prompt = self.encode_chat(messages)
        return join_prompt_and_answer(
            prompt, self.encode(answer), self.eos_token_id, max_source_length, max_target_length
        )

    def make_reply_filter(self) -> ReplyFilter:
        """Return the original's response clean-up, made to work on a stream."""
        return ReplyFilter(replacements=REPLY_REPLACEMENTS)

    @property
    def _start(self) -> list[int]:
        return [self._control["[gMASK]"], self._control["sop"]]


def format_chat(messages: Sequence[Message]) -> str:
    """Return ChatGLM2's prompt: rounds counted from 1, the round form also without history.

    A system message, which the model was not trained with, stands on lines of its own before round 1.
    Several questions in a row are one question of several lines.
    """
    system, answered, question = split_rounds(messages)
    rounds = [
        f"[Round {number}]\n\n问：{asked}\n\n答：{answer}\n\n"
        for number, (asked, answer) in enumerate(answered, start=1)
    ]
    head = f"{system}\n\n" if system else ""
    return f"{head}{''.join(rounds)}[Round {len(rounds) + 1}]\n\n问：{question}\n\n答："
