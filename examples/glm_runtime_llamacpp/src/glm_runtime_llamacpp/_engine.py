"""The one module that speaks with llama.cpp: vocabulary, prefill, sampling.

`Llama` opens files and evaluates tokens; what it does not offer (a seed and a chain of samplers for
each answer, bytes of long tokens) is asked of the functions of llama.h that llama-cpp-python offers
beside it.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import secrets
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from glm_core import CheckpointError, DeviceError, OutOfMemoryError, Sampling

# Imported by name, so that type checkers need no llama-cpp-python: everything of it is `Any` here.
try:
    _api: Any = importlib.import_module("llama_cpp")
except (OSError, RuntimeError) as error:  # installed, but its library does not load on this machine
    raise DeviceError(f"llama-cpp-python is installed but cannot be used: {error}") from error

PIECE = 256
"""Tokens of a prompt that are evaluated at once; between two pieces an answer can be cancelled."""

_ERROR_LEVEL = 4  # GGML_LOG_LEVEL_ERROR of ggml.h
_complaints: deque[str] = deque(maxlen=4)
"""What llama.cpp complained of last: its functions return no reasons, it only logs them."""


@_api.llama_log_callback  # type: ignore[untyped-decorator,unused-ignore]
def _note_complaint(level: int, text: bytes, _: Any) -> None:
    # Only noted: a line on standard error would land in the middle of a frontend's screen.
    if level == _ERROR_LEVEL:
        _complaints.append(text.decode("utf-8", "replace").strip())


# Once for the process, as llama.cpp has one log; this module keeps the callback alive.
_api.llama_log_set(_note_complaint, ctypes.c_void_p(0))


def open_llama(file: Path, **options: Any) -> Any:
    """Open a GGUF file with llama-cpp-python.

    Args:
        file: the file, or the first of a split model.
        options: of `llama_cpp.Llama`.

    Raises:
        CheckpointError: llama.cpp cannot read the file.
        OutOfMemoryError: weights or KV cache do not fit.
    """
    _complaints.clear()
    try:
        return _api.Llama(str(file), verbose=False, **options)
    except (ValueError, RuntimeError, MemoryError) as error:
        reason = "; ".join(_complaints) or str(error)
        if "alloc" in reason or isinstance(error, MemoryError):
            raise OutOfMemoryError(
                f"{file} does not fit into memory ({reason}); start with a smaller --context-length, or use "
                "a file that is quantised further"
            ) from error
        raise CheckpointError(
            f"llama.cpp cannot open {file}: {reason}. The file is damaged, not complete, or of an "
            "architecture that this llama-cpp-python does not know; download it again, or upgrade it"
        ) from error


class Vocabulary:
    """Tokens and text, in both directions; asking it is safe from several threads at once.

    Attributes:
        size: number of tokens.
        template: from messages to the text of a prompt; ``None`` if the file has no chat template.

    Args:
        llama: an open `Llama`, with weights or without.
    """

    def __init__(self, llama: Any) -> None:
        self._llama = llama
        self._vocabulary = _api.llama_model_get_vocab(llama.model)
        self.size = int(llama.n_vocab())
        self.template: Callable[[list[dict[str, str]]], str] | None = None
        self._bos_text = self._token_text(llama.token_bos())
        source = llama.metadata.get("tokenizer.chat_template")
        if source is not None:
            render = _api.llama_chat_format.Jinja2ChatFormatter(
                template=source, eos_token=self._token_text(llama.token_eos()), bos_token=self._bos_text
            )
            self.template = lambda messages: str(render(messages=messages).prompt)

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Return the tokens of a text.

        Args:
            text: any.
            special: whether names of control tokens stand for these tokens.
        """
        # Some templates write the token that begins a sequence, others leave it to the tokenizer.
        written = special and bool(self._bos_text) and text.startswith(self._bos_text)
        add = not written and bool(_api.llama_vocab_get_add_bos(self._vocabulary))
        return list(self._llama.tokenize(text.encode("utf-8"), add_bos=add, special=special))

    def piece(self, token: int, *, skip_space: bool = False) -> bytes:
        """Return the bytes that a token stands for, maybe half a character; none for control tokens.

        Args:
            token: its id.
            skip_space: leave out a space in front, which many vocabularies put before every word.
        """
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = _api.llama_token_to_piece(
                self._vocabulary, token, buffer, size, int(skip_space), False
            )
            if length >= 0:
                return buffer.raw[:length]
            size = -length  # what llama.cpp says that it needs

    def ends_answer(self, token: int) -> bool:
        """Return whether a token says that the answer is over."""
        return bool(_api.llama_vocab_is_eog(self._vocabulary, token))

    def _token_text(self, token: int) -> str:
        text: bytes = _api.llama_vocab_get_text(self._vocabulary, token) if token >= 0 else b""
        return text.decode("utf-8")


class Engine:
    """The weights and one KV cache; only one thread may use it, for one answer at a time.

    Attributes:
        reused: tokens of the newest prompt that the KV cache held already.

    Args:
        llama: an open `Llama` with weights.
        vocabulary: its vocabulary.
    """

    def __init__(self, llama: Any, vocabulary: Vocabulary) -> None:
        self._llama = llama
        self._vocabulary = vocabulary
        self.reused = 0
        self._prompt_pieces: list[int] = []  # whole pieces of a prompt that the KV cache begins with

    @property
    def used(self) -> int:
        """Positions of the KV cache in use."""
        return int(self._llama.n_tokens)

    def generate(
        self, prompt: Sequence[int], sampling: Sampling, seed: int | None, is_cancelled: Callable[[], bool]
    ) -> Iterator[int]:
        """Generate tokens without end; the caller says when it is enough.

        Args:
            prompt: token ids, at least one.
            sampling: every field set but the lengths, which are the caller's.
            seed: makes the tokens repeatable; ``None`` = a fresh one.
            is_cancelled: asked between two pieces of the prompt and between two tokens.
        """
        for piece in self._pieces(prompt):
            if is_cancelled():
                return
            self._llama.eval(piece)
        chain = self._make_chain(prompt, sampling, seed)
        try:
            while not is_cancelled():
                token = int(_api.llama_sampler_sample(chain, self._llama.ctx, -1))
                yield token
                self._llama.eval([token])
        finally:
            _api.llama_sampler_free(chain)

    def _pieces(self, prompt: Sequence[int]) -> Iterator[list[int]]:
        """Give the pieces of a prompt that the KV cache does not hold yet, and forget what else it holds.

        Only whole pieces of earlier prompts are kept, and always cut at the same places: how many rows
        are multiplied at once changes the last bits of the result, and so an answer would depend on what
        was asked before. The last token is always evaluated, since its logits are needed.
        """
        known = 0
        for kept, wanted in zip(self._prompt_pieces, prompt[:-1], strict=False):
            if kept != wanted:
                break
            known += 1
        known -= known % PIECE
        memory = _api.llama_get_memory(self._llama.ctx)
        # Recurrent models cannot forget a part of what they have seen; these begin anew.
        if not _api.llama_memory_seq_rm(memory, -1, known, -1):
            _api.llama_memory_clear(memory, True)
            known = 0
        del self._prompt_pieces[known:]
        self._llama.n_tokens = self.reused = known
        for start in range(known, len(prompt), PIECE):
            piece = list(prompt[start : start + PIECE])
            yield piece
            if len(piece) == PIECE:  # evaluated by now: the caller has come back for the next
                self._prompt_pieces += piece

    def _make_chain(self, prompt: Sequence[int], sampling: Sampling, seed: int | None) -> Any:
        """Return samplers that do what `Sampling` says, in the order that it describes.

        The order is transformers': penalties, temperature, the ``top_k`` best, ``top_p`` of these.
        llama.cpp's own puts the temperature last, so the same settings would mean something else.
        """
        everything = int(self._llama.n_ctx())  # how far back the penalties look
        repetition = self._penalties(everything, sampling.repetition_penalty, 0.0, 0.0)
        # The repetition penalty counts the prompt as well, the other two the answer alone.
        for token in prompt:
            _api.llama_sampler_accept(repetition, token)
        chain = _api.llama_sampler_chain_init(_api.llama_sampler_chain_default_params())
        samplers = [
            repetition,
            self._penalties(everything, 1.0, sampling.frequency_penalty, sampling.presence_penalty),
        ]
        if sampling.do_sample is False or not sampling.temperature:
            samplers.append(_api.llama_sampler_init_greedy())
        else:
            # llama.cpp takes 32 bits of a seed, the highest of which means "a fresh one".
            number = secrets.randbits(64) if seed is None else seed
            samplers += [
                _api.llama_sampler_init_temp(sampling.temperature),
                _api.llama_sampler_init_top_k(sampling.top_k),
                _api.llama_sampler_init_top_p(sampling.top_p, 1),
                _api.llama_sampler_init_dist(number % _api.LLAMA_DEFAULT_SEED),
            ]
        for sampler in samplers:
            _api.llama_sampler_chain_add(chain, sampler)  # the chain frees it
        return chain

    def _penalties(
        self, length: int, repetition: float | None, frequency: float | None, presence: float | None
    ) -> Any:
        size = self._vocabulary.size
        return _api.llama_sampler_init_penalties(size, length, repetition, frequency, presence)


def read_facts(llama: Any) -> dict[str, int | str]:
    """Return what a file says of its model: family, numbers of parameters, bytes and tokens of context.

    Raises:
        CheckpointError: the model is not one that goes on with text.
    """
    family = str(llama.metadata.get("general.architecture", ""))
    if _api.llama_model_has_encoder(llama.model):
        raise CheckpointError(f"a model of architecture {family!r} does not answer in a conversation")
    return {
        "family": family,
        "num_parameters": int(_api.llama_model_n_params(llama.model)),
        "weight_bytes": int(_api.llama_model_size(llama.model)),
        "context_length": int(_api.llama_model_n_ctx_train(llama.model)),
    }


def count_threads() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
