"""Scores a model directory on the development set and prints what it said.

    python plugins/glm_model_demo/training/evaluate.py DIR [--file development.jsonl] [--all]

Decoding is greedy; the first answer of a two-turn prompt is the model's own. A line of the set
holds ``turns`` and ``expect``: regular expressions that must all occur in the last answer.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

_PROJECT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(_PROJECT), str(_PROJECT / "plugins/glm_runtime_torch/src")]

from dialogues import encode_chat  # noqa: E402
from glm_runtime_torch.architectures.chatglm import ChatGLM, ChatGLMConfig  # noqa: E402
from glm_runtime_torch.tokenizers.chatglm import ChatGLMTokenizer  # noqa: E402
from model_directory import read_weights  # noqa: E402


class Cache:
    """Keys and values so far, one tensor pair a layer."""

    def __init__(self) -> None:
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Append and return everything."""
        if layer in self._layers:
            earlier_keys, earlier_values = self._layers[layer]
            keys, values = torch.cat((earlier_keys, keys), 2), torch.cat((earlier_values, values), 2)
        self._layers[layer] = keys, values
        return keys, values


class Speaker:
    """A loaded model that answers greedily."""

    def __init__(self, directory: Path) -> None:
        self.tokenizer = ChatGLMTokenizer(directory)
        config = ChatGLMConfig.from_checkpoint(json.loads((directory / "config.json").read_text("utf-8")))
        self.model = ChatGLM(config)
        read_weights(self.model, directory)
        self.model.eval()

    @torch.inference_mode()
    def answer(self, query: str, history: list[tuple[str, str]], max_new_tokens: int = 140) -> str:
        """Return the cleaned reply to ``query``."""
        ids = self.tokenizer.encode_completion(encode_chat(history, query))
        context = len(ids) - 1  # all before <sop>
        out: list[int] = []
        cache, start = Cache(), 0
        while len(out) < max_new_tokens:
            index = torch.arange(start, start + len(ids))
            positions = torch.stack((index.clamp(max=context - 1), (index - context + 1).clamp(min=0)))
            mask = None
            if start == 0:
                visible = (index < context) | (index <= index.unsqueeze(1))
                mask = visible.view(1, 1, len(ids), len(ids))
            hidden = self.model.compute_hidden_states(
                torch.tensor([ids]), positions.unsqueeze(0), mask, cache
            )
            logits = self.model.lm_head(hidden[:, -1])
            start += len(ids)
            token = int(logits.argmax())
            if token in self.tokenizer.stop_token_ids:
                break
            out.append(token)
            ids = [token]
        return self.tokenizer.make_reply_filter().feed(self.tokenizer.decode(out), last=True)

    def converse(self, turns: list[str]) -> list[tuple[str, str]]:
        """Return every turn with the model's answer."""
        history: list[tuple[str, str]] = []
        for turn in turns:
            history.append((turn, self.answer(turn, history)))
        return history


def main() -> None:
    """Score and print failures; the last line is JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--file", type=Path, default=Path(__file__).parent / "development.jsonl")
    parser.add_argument("--all", action="store_true", help="print every conversation")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    speaker = Speaker(arguments.model)
    passed: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for line in arguments.file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        rounds = speaker.converse(row["turns"])
        good = all(re.search(pattern, rounds[-1][1], re.IGNORECASE) for pattern in row["expect"])
        total[row["group"]] += 1
        passed[row["group"]] += good
        if arguments.all or not good:
            print("ok  " if good else "MISS", row["group"], " / ".join(f"{q} => {a}" for q, a in rounds))
    groups = {group: f"{passed[group]}/{total[group]}" for group in total}
    print(json.dumps({"passed": sum(passed.values()), "total": sum(total.values()), "groups": groups}))


if __name__ == "__main__":
    main()
