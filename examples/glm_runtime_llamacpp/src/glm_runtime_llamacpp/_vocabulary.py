"""The vocabulary and chat template of a GGUF file."""

from __future__ import annotations

import ctypes
from typing import Any

from ._binding import api
from ._template import ChatTemplate


class Vocabulary:
    """Tokens and text, in both directions; asking it is safe from several threads at once.

    Attributes:
        size: number of tokens.
        template: makes the text of a prompt; ``None`` if the file has no chat template.

    Args:
        llama: an open `Llama`, with weights or without.
    """

    def __init__(self, llama: Any) -> None:
        self._llama = llama
        self._vocabulary = api.llama_model_get_vocab(llama.model)
        self.size = int(llama.n_vocab())
        self.template: ChatTemplate | None = None
        self._bos_text = self._read_token_text(llama.token_bos())
        if llama.chat_template is not None:
            texts = {"bos_token": self._bos_text, "eos_token": self._read_token_text(llama.token_eos())}
            self.template = ChatTemplate(llama.chat_template, texts)

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Return the tokens of a text.

        Args:
            text: any.
            special: whether names of control tokens stand for these tokens.
        """
        # Some templates write the token that begins a sequence, others leave it to the tokenizer.
        written = special and bool(self._bos_text) and text.startswith(self._bos_text)
        add = not written and bool(api.llama_vocab_get_add_bos(self._vocabulary))
        return list(self._llama.tokenize(text.encode("utf-8"), add_bos=add, special=special))

    def decode_token(self, token: int, *, skip_space: bool = False) -> bytes:
        """Return the bytes that a token stands for, maybe half a character; none for control tokens.

        Args:
            token: its id.
            skip_space: leave out a space in front, which many vocabularies put before every word.
        """
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = api.llama_token_to_piece(self._vocabulary, token, buffer, size, int(skip_space), False)
            if length >= 0:
                return buffer.raw[:length]
            size = -length  # what llama.cpp says that it needs

    def ends_answer(self, token: int) -> bool:
        """Return whether a token says that the answer is over."""
        return bool(api.llama_vocab_is_eog(self._vocabulary, token))

    def _read_token_text(self, token: int) -> str:
        text: bytes = api.llama_vocab_get_text(self._vocabulary, token) if token >= 0 else b""
        return text.decode("utf-8")
