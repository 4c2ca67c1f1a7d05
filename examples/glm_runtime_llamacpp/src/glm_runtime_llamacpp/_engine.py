"""Prefill, sampling and the KV cache.

`Llama` evaluates tokens; a seed and a chain of samplers for each answer are asked of the functions of
llama.h that llama-cpp-python offers beside it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from glm_core import Sampling

from ._binding import api

PIECE = 256
"""Tokens of a prompt that are evaluated at once; between two pieces an answer can be cancelled."""


class Engine:
    """The weights and one KV cache; only one thread may use it, for one answer at a time.

    Attributes:
        reused: tokens of the newest prompt that the KV cache held already.

    Args:
        llama: an open `Llama` with weights.
    """

    def __init__(self, llama: Any) -> None:
        self._llama = llama
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
        for piece in self._generate_pieces(prompt):
            if is_cancelled():
                return
            self._llama.eval(piece)
        chain = self._make_chain(prompt, sampling, seed)
        try:
            while not is_cancelled():
                token = int(api.llama_sampler_sample(chain, self._llama.ctx, -1))
                yield token
                self._llama.eval([token])
        finally:
            api.llama_sampler_free(chain)

    def _generate_pieces(self, prompt: Sequence[int]) -> Iterator[list[int]]:
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
        memory = api.llama_get_memory(self._llama.ctx)
        # Recurrent models cannot forget a part of what they have seen; these begin anew.
        if not api.llama_memory_seq_rm(memory, -1, known, -1):
            api.llama_memory_clear(memory, True)
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
        repetition = self._make_penalties(everything, sampling.repetition_penalty, 0.0, 0.0)
        # The repetition penalty counts the prompt as well, the other two the answer alone.
        for token in prompt:
            api.llama_sampler_accept(repetition, token)
        chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        samplers = [
            repetition,
            self._make_penalties(everything, 1.0, sampling.frequency_penalty, sampling.presence_penalty),
        ]
        if sampling.do_sample is False or not sampling.temperature:
            samplers.append(api.llama_sampler_init_greedy())
        else:
            # llama.cpp takes 32 bits of a seed, the highest of which means "a fresh one".
            number = secrets.randbits(64) if seed is None else seed
            samplers += [
                api.llama_sampler_init_temp(sampling.temperature),
                api.llama_sampler_init_top_k(sampling.top_k),
                api.llama_sampler_init_top_p(sampling.top_p, 1),
                api.llama_sampler_init_dist(number % api.LLAMA_DEFAULT_SEED),
            ]
        for sampler in samplers:
            api.llama_sampler_chain_add(chain, sampler)  # the chain frees it
        return chain

    def _make_penalties(
        self, length: int, repetition: float | None, frequency: float | None, presence: float | None
    ) -> Any:
        size = self._llama.n_vocab()
        return api.llama_sampler_init_penalties(size, length, repetition, frequency, presence)
