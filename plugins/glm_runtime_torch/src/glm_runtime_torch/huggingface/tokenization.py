"""`ChatGLMTokenizer` as a transformers tokenizer: batches, padding, tensors."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizer

from ..tokenizers.chatglm import (
    END,
    GMASK,
    MASK,
    PAD,
    START,
    VOCABULARY_FILE,
    ChatGLMTokenizer as TextTokenizer,
)


class ChatGLMTokenizer(PreTrainedTokenizer):
    """ChatGLM-6B's tokenizer with the original's calls.

    Without padding a call returns ``input_ids`` only. With padding, which is on the left, it also
    returns ``position_ids`` ``[B, 2, S]`` and ``attention_mask`` ``[B, 1, S, S]`` bool with
    True = blocked, as the original does.

    Text never becomes a control token, and decoding does not remove blanks before punctuation.

    Args:
        vocab_file: path of ``ice_text.model``.
        kwargs: passed on to transformers.
    """

    vocab_files_names = {"vocab_file": VOCABULARY_FILE}  # noqa: RUF012 - transformers' own form
    model_input_names = ["input_ids", "attention_mask", "position_ids"]  # noqa: RUF012

    def __init__(self, vocab_file: str, **kwargs: Any) -> None:
        self.chat_tokenizer = TextTokenizer(Path(vocab_file).parent)
        self.vocab_file = vocab_file
        for name, token in (("bos", START), ("eos", END), ("pad", PAD), ("mask", MASK), ("unk", "<unk>")):
            kwargs[f"{name}_token"] = token
        specials = {**kwargs.pop("model_specific_special_tokens", {}), "gmask_token": GMASK}
        kwargs["clean_up_tokenization_spaces"] = False
        kwargs["padding_side"] = "left"
        super().__init__(model_specific_special_tokens=specials, **kwargs)

    @property
    def vocab_size(self) -> int:
        """Number of pieces, control tokens included."""
        return self.chat_tokenizer.vocab_size

    @property
    def gmask_token_id(self) -> int:
        """Id of ``[gMASK]``, which every prompt ends with before ``<sop>``."""
        return self.chat_tokenizer.gmask_token_id

    def get_vocab(self) -> dict[str, int]:
        """Return the id of every piece."""
        pieces = self.chat_tokenizer.pieces
        return {pieces.id_to_piece(index): index for index in range(self.vocab_size)}

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **kwargs: Any
    ) -> list[str]:
        """Return the pieces of plain text; transformers' split at special names is left out on purpose."""
        return self.chat_tokenizer.tokenize(text)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return ``A [gMASK] <sop>``, or ``A [gMASK] <sop> B <eop>`` for a pair."""
        end = [] if token_ids_1 is None else [*token_ids_1, self.chat_tokenizer.eos_token_id]
        return [*token_ids_0, self.gmask_token_id, self.chat_tokenizer.bos_token_id, *end]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Return the text of pieces."""
        return self.chat_tokenizer.decode([self._convert_token_to_id(token) for token in tokens])

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Copy the vocabulary file."""
        name = f"{filename_prefix}-{VOCABULARY_FILE}" if filename_prefix else VOCABULARY_FILE
        target = Path(save_directory) / name
        if target.resolve() != Path(self.vocab_file).resolve():
            shutil.copyfile(self.vocab_file, target)
        return (str(target),)

    def _convert_token_to_id(self, token: str) -> int:
        return self.chat_tokenizer.pieces.piece_to_id(token)

    def _convert_id_to_token(self, index: int) -> str:
        # An untrained head may produce ids between the vocabulary's end and the embedding's.
        return self.chat_tokenizer.pieces.id_to_piece(index) if index < self.vocab_size else PAD

    def _decode(self, token_ids: int | list[int], skip_special_tokens: bool = False, **kwargs: Any) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        if skip_special_tokens:
            ids = [token for token in ids if token not in self.all_special_ids]
        return self.chat_tokenizer.decode(ids)

    def _pad(
        self,
        encoded_inputs: dict[str, Any],
        max_length: int | None = None,
        padding_strategy: Any = "do_not_pad",
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
    ) -> dict[str, Any]:
        ids = list(encoded_inputs["input_ids"])
        if getattr(padding_strategy, "value", padding_strategy) == "do_not_pad":
            return encoded_inputs
        side = padding_side or self.padding_side
        if side != "left":
            raise ValueError(f"ChatGLM-6B is padded on the left; padding_side {side!r} is not supported")
        length = len(ids) if max_length is None else max_length
        if pad_to_multiple_of:
            length = -(-length // pad_to_multiple_of) * pad_to_multiple_of
        positions, blocked = self._make_positions_and_mask(ids)
        front = max(length - len(ids), 0)
        encoded_inputs["input_ids"] = [self.pad_token_id] * front + ids
        encoded_inputs["position_ids"] = np.pad(positions, [(0, 0), (front, 0)])
        encoded_inputs["attention_mask"] = np.pad(
            blocked, [(0, 0), (front, 0), (front, 0)], constant_values=True
        )
        return encoded_inputs

    def _make_positions_and_mask(self, ids: list[int]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return positions ``[2, S]`` and mask ``[1, S, S]`` (True = blocked) of one unpadded row.

        The tokenizer prefers ``[MASK]`` to ``[gMASK]``, the model the reverse; they differ only
        for input that holds both. Kept as it is in the original.
        """
        length = len(ids)
        context = (
            ids.index(self.chat_tokenizer.bos_token_id) if self.chat_tokenizer.bos_token_id in ids else length
        )
        mask_id = (
            self.chat_tokenizer.mask_token_id
            if self.chat_tokenizer.mask_token_id in ids
            else self.gmask_token_id
        )
        index = np.arange(length)
        blocked = (index[None, :] > index[:, None]) & (index[None, :] >= context)
        first = np.where(index < context, index, ids.index(mask_id) if mask_id in ids else index)
        second = np.where(index < context, 0, index - context + 1)
        return np.stack((first, second)), blocked[None]
