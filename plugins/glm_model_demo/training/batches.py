"""Right-padded training batches: an endless stream of fresh conversations, never a fixed file."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from dialogues import Dialogues
from glm_runtime_torch.architectures.chatglm import ChatGLMConfig
from glm_runtime_torch.network.attention import build_visibility_mask
from glm_runtime_torch.tokenizers.chatglm import ChatGLMTokenizer
from torch import Tensor

# Conversations are drawn so many at a time and sorted by length, so that little is padding.
POOL_SIZE = 2048  # samples that are sorted by length together, so that a batch has little padding
MAX_TOKENS = 480  # of a sample; what is longer is left out, since the longest decides the memory of a batch
SHORT_ANSWER = (6, 28)  # pieces: the beginnings decide which answer is given, and are learned first


@dataclass(frozen=True)
class Batch:
    """One batch, with the indices of the positions whose logits are needed.

    ``predicting`` indexes the flattened ``[B * S]`` positions; ``targets`` are the pieces that
    follow them.
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor
    predicting: Tensor
    targets: Tensor
    num_tokens: int


def read_development_prompts() -> frozenset[str]:
    """Return the questions of the development set, which training must not contain."""
    path = Path(__file__).parent / "development.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return frozenset(turn for row in rows if len(row["turns"]) == 1 for turn in row["turns"])


class Batches:
    """Batches of about ``tokens_per_batch`` tokens.

    Args:
        config: names the special tokens.
        rng: decides every sample.
        excluded: questions that never occur.
    """

    def __init__(
        self,
        config: ChatGLMConfig,
        tokenizer: ChatGLMTokenizer,
        rng: random.Random,
        tokens_per_batch: int,
        excluded: frozenset[str],
    ) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._rng = rng
        self._tokens_per_batch = tokens_per_batch
        self._dialogues = Dialogues(excluded)
        self._waiting: list[list[tuple[list[int], list[int]]]] = []

    def next(self, *, shorten: bool) -> Batch:
        """Return the next batch; ``shorten`` cuts half of the answers after a few pieces."""
        if not self._waiting:
            self._waiting = self._draw_pool(shorten)
        return self._lay_out(self._waiting.pop())

    def _draw_pool(self, shorten: bool) -> list[list[tuple[list[int], list[int]]]]:
        rows = []
        while len(rows) < POOL_SIZE:
            sample = self._dialogues.sample(self._rng)
            prompt = self._tokenizer.encode_completion(sample.prompt)
            answer = [*self._tokenizer.encode(sample.answer), self._config.eos_token_id]
            if shorten and self._rng.random() < 0.5:
                answer = answer[: self._rng.randint(*SHORT_ANSWER)]
            if len(prompt) + len(answer) <= MAX_TOKENS:
                rows.append((prompt, answer))
        rows.sort(key=lambda row: len(row[0]) + len(row[1]))
        batches = []
        while rows:
            count = max(1, self._tokens_per_batch // (len(rows[-1][0]) + len(rows[-1][1])))
            batches.append(rows[-count:])
            del rows[-count:]
        self._rng.shuffle(batches)
        return batches

    def _lay_out(self, rows: list[tuple[list[int], list[int]]]) -> Batch:
        # The last piece of an answer predicts nothing, so it need not be read.
        B, S = len(rows), max(len(prompt) + len(answer) for prompt, answer in rows) - 1
        input_ids = torch.full((B, S), self._config.pad_token_id)
        contexts = torch.tensor([len(prompt) - 1 for prompt, _ in rows])  # all before <sop>
        predicting, targets = [], []
        for index, (prompt, answer) in enumerate(rows):
            read = prompt + answer[:-1]
            input_ids[index, : len(read)] = torch.tensor(read)
            predicting += range(index * S + len(prompt) - 1, index * S + len(read))
            targets += answer
        steps = torch.arange(S).expand(B, S)
        after = (steps - contexts.unsqueeze(1) + 1).clamp(min=0)
        within = torch.minimum(steps, contexts.unsqueeze(1) - 1)  # the answer stays at [gMASK]
        # Padding stands behind everything that is real, so causality already hides it.
        return Batch(
            input_ids,
            torch.stack((within, after), dim=1),
            build_visibility_mask(steps, contexts, S),
            torch.tensor(predicting),
            torch.tensor(targets),
            sum(len(prompt) + len(answer) for prompt, answer in rows),
        )
