"""The ChatGLM-6B (v1) tokenizer: SentencePiece, whitespace pieces, and control tokens at the end.

Format: ``ice_text.model`` as published with ChatGLM-6B v1.1; any SentencePiece model with the
same special pieces works, whatever their ids.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from glm_core import Message
from glm_core.errors import CheckpointError

from ..checkpoints.integrity import has_file
from ..checkpoints.published_sizes import MAX_VOCABULARY
from ..checkpoints.record_file import FileRecord, limit_integer, read_record
from .reply_filter import FullWidthPunctuation, ReplyFilter
from .training_rows import TrainingIds
from .vocabulary import load_vocabulary

VOCABULARY_FILE = "ice_text.model"

MASK, GMASK, START, END, PAD = "[MASK]", "[gMASK]", "<sop>", "<eop>", "<pad>"
NEWLINE, TAB = "<n>", "<|tab|>"
MAX_BLANKS = 80  # the longest run of blanks that the published vocabulary has a piece for

# The published model writes its training date so and its chat code replaces it.
REPLY_REPLACEMENTS = {"[[训练时间]]": "2023年"}

_BLANKS = re.compile(" {2,}")
_BLANK_PIECE = re.compile(r"<\|blank_(\d+)\|>")


class ChatGLMTokenizer:
    """Text to ids and back, equal to the original's except where that is a hole.

    Two differences, both on purpose: control tokens typed as text (``<sop>``, ``<eop>``,
    ``[MASK]``) stay text instead of becoming the tokens, and decoding leaves blanks before
    punctuation alone, which code and tables need.

    Args:
        directory: holds ``ice_text.model``; ``tokenizer_config.json`` is read if it is there.

    Raises:
        CheckpointError: the vocabulary is missing, unreadable, a Git LFS pointer, lacks a special
            piece, or is that of ChatGLM-6B v1.0 with its 20,000 image tokens.
    """

    def __init__(self, directory: str | Path) -> None:
        directory = Path(directory)
        _refuse_image_tokens(directory)
        self.pieces = load_vocabulary(directory / VOCABULARY_FILE)
        self.vocab_size: int = self.pieces.get_piece_size()
        self.mask_token_id = self._find_special_id(MASK)
        self.gmask_token_id = self._find_special_id(GMASK)
        self.bos_token_id = self._find_special_id(START)
        self.eos_token_id = self._find_special_id(END)
        self.pad_token_id = self._find_special_id(PAD)
        self.stop_token_ids = frozenset({self.eos_token_id})
        # The longest first, as the original replaces them; what the vocabulary lacks stays blanks.
        self._blank_counts = [
            count for count in range(MAX_BLANKS, 1, -1) if self._has_piece(f"<|blank_{count}|>")
        ]

    def encode(self, text: str) -> list[int]:
        """Return ids of plain text; newlines, tabs and runs of blanks become their own pieces."""
        return self.pieces.encode(self._mark_whitespace(text))

    def tokenize(self, text: str) -> list[str]:
        """Return the pieces of `encode` as text."""
        return self.pieces.encode(self._mark_whitespace(text), out_type=str)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids; control tokens and ids beyond the vocabulary leave nothing behind."""
        text = self.pieces.decode([token for token in token_ids if 0 <= token < self.vocab_size])
        text = text.replace(NEWLINE, "\n").replace(TAB, "\t")
        return _BLANK_PIECE.sub(_expand_blanks, text)

    def encode_completion(self, text: str) -> list[int]:
        """Return ids of bare text followed by ``[gMASK] <sop>``, as the original's ``__call__`` gives."""
        return [*self.encode(text), self.gmask_token_id, self.bos_token_id]

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Return ids of a conversation in the original's round format; see `format_chat`."""
        return self.encode_completion(format_chat(messages))

    def encode_training_row(
        self, messages: Sequence[Message], answer: str, max_source_length: int, max_target_length: int
    ) -> TrainingIds:
        """Return the original trainer's layout: prompt, ``[gMASK] <sop>``, answer, ``<eop>``.

        ``<sop>`` is learnt too. The prompt keeps ``max_source_length - 1`` tokens of its text, the
        answer ``max_target_length - 2``.
        """
        source, target = self.encode(format_chat(messages)), self.encode(answer)
        front = source[: max(max_source_length - 1, 0)]
        learnt = target[: max(max_target_length - 2, 0)]
        return TrainingIds(
            token_ids=[*front, self.gmask_token_id, self.bos_token_id, *learnt, self.eos_token_id],
            prompt_length=len(front) + 2,
            first_target=len(front) + 1,
            source_length=len(source),
            target_length=len(target),
            source_cut=len(front) < len(source),
            target_cut=len(learnt) < len(target),
        )

    def make_reply_filter(self) -> ReplyFilter:
        """Return the original's response clean-up, made to work on a stream."""
        return ReplyFilter(replacements=REPLY_REPLACEMENTS, punctuation=FullWidthPunctuation())

    def _mark_whitespace(self, text: str) -> str:
        text = text.replace("\n", NEWLINE).replace("\t", TAB)
        # Runs of blanks are found first and cut then: a pattern with a branch for each of 79 lengths tries
        # all of them at every character.
        return _BLANKS.sub(self._cut_blanks, text)

    def _cut_blanks(self, run: re.Match[str]) -> str:
        left, out = len(run.group()), ""
        for count in self._blank_counts:
            out += f"<|blank_{count}|>" * (left // count)
            left %= count
        return out + " " * left

    def _has_piece(self, piece: str) -> bool:
        return self.pieces.id_to_piece(self.pieces.piece_to_id(piece)) == piece

    def _find_special_id(self, piece: str) -> int:
        if not self._has_piece(piece):
            raise CheckpointError(
                f"the vocabulary ({VOCABULARY_FILE}, {self.vocab_size} pieces) has no piece {piece}; "
                "a ChatGLM-6B vocabulary is expected. Take the file that was published with the weights."
            )
        return self.pieces.piece_to_id(piece)


def format_chat(messages: Sequence[Message]) -> str:
    """Return the original's prompt: rounds counted from 0, the bare question when there is no history.

    A system message is emulated, because the model was trained without one: its text stands on
    a line of its own before round 0, and the round form is used even without history. Several
    questions in a row are one question of several lines.
    """
    system, answered, question = split_rounds(messages)
    if not answered and not system:
        return question
    head = f"{system}\n" if system else ""
    rounds = [
        f"[Round {number}]\n问：{asked}\n答：{answer}\n" for number, (asked, answer) in enumerate(answered)
    ]
    return f"{head}{''.join(rounds)}[Round {len(rounds)}]\n问：{question}\n答："


def split_rounds(messages: Sequence[Message]) -> tuple[str, list[tuple[str, str]], str]:
    """Return what stands in system messages, the questions with their answers, and the open question.

    Several messages of one role in a row are one text of several lines.
    """
    system: list[str] = []
    asked: list[str] = []
    rounds: list[tuple[str, str]] = []
    for message in messages:
        if message.role == "system":
            system.append(message.content)
        elif message.role == "user" and (asked or message.content):  # an empty line in front says nothing
            asked.append(message.content)
        elif message.role == "assistant":
            rounds.append(("\n".join(asked), message.content))
            asked = []
    return "\n".join(system), rounds, "\n".join(asked)


def _expand_blanks(match: re.Match[str]) -> str:
    count = int(match.group(1))
    return " " * count if 2 <= count <= MAX_BLANKS else match.group()


class _SettingsFile(FileRecord):
    """What is read of a ``tokenizer_config.json``; the vocabulary says all else."""

    num_image_tokens: Annotated[int, limit_integer(0, MAX_VOCABULARY)] | None = None


def _refuse_image_tokens(directory: Path) -> None:
    path = directory / "tokenizer_config.json"
    count = read_record(path, _SettingsFile).num_image_tokens if has_file(path) else 0
    if count:
        raise CheckpointError(
            f"{directory} holds ChatGLM-6B v1.0, whose ids begin with {count} image tokens; v1.1 is "
            "expected. Download revision v1.1.0 of the same model."
        )
