"""Rebuilds the bundled demo model from nothing: vocabulary, corpus, training, model directory.

    python plugins/glm_model_demo/training/train.py --output DIR --minutes 40 --threads 2

With ``--steps`` instead of ``--minutes`` the run does not depend on the clock: the same seed gives
the same samples, vocabulary and schedule. DIR always holds the newest checkpoint, each file
replaced at once, so it can be loaded while training goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

# On a shared machine threads that spin while they wait cost more than they bring.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

_PROJECT = Path(__file__).resolve().parents[3]
# The runtime may not be installed yet when its demo model is built.
sys.path[:0] = [str(_PROJECT), str(_PROJECT / "plugins/glm_runtime_torch/src")]

from batches import Batch, Batches, read_development_prompts  # noqa: E402
from glm_runtime_torch.architectures.chatglm import DEEP_NORM_ALPHA, ChatGLM, ChatGLMConfig  # noqa: E402
from glm_runtime_torch.tokenizers.chatglm import ChatGLMTokenizer  # noqa: E402
from model_directory import read_weights, write_model, write_tokenizer_config  # noqa: E402
from vocabulary import VOCABULARY_FILE, train_vocabulary  # noqa: E402


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what comes out."""

    hidden_size: int = 192
    num_layers: int = 4
    num_heads: int = 4
    learning_rate: float = 4e-3
    weight_decay: float = 0.02
    warmup_steps: int = 80
    final_rate: float = 0.02
    tokens_per_batch: int = 3072
    # From this share of the run on, half of the answers are learnt only in their first pieces:
    # by then the rest is known by heart, and the time is better spent on more questions.
    shorten_after: float = 0.15


class Schedule:
    """How far the run is, by steps or by the clock, and the learning rate there."""

    def __init__(self, recipe: Recipe, steps: int | None, minutes: float) -> None:
        self._recipe = recipe
        self._steps = steps
        self._seconds = minutes * 60
        self._start = time.monotonic()
        self.step = 0

    @property
    def progress(self) -> float:
        """Return the share of the run that is done, 0 to 1."""
        if self._steps is not None:
            return self.step / self._steps
        return (time.monotonic() - self._start) / self._seconds

    @property
    def minutes(self) -> float:
        """Return the minutes since the start."""
        return (time.monotonic() - self._start) / 60

    @property
    def learning_rate(self) -> float:
        """Return a linear warm-up, then a cosine."""
        warmup = min(1.0, (self.step + 1) / self._recipe.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, self.progress)))
        final = self._recipe.final_rate
        return self._recipe.learning_rate * warmup * (final + (1 - final) * cosine)


def build_model(recipe: Recipe, tokenizer: ChatGLMTokenizer) -> ChatGLM:
    """Return a fresh model with the initialisation that deep norm needs.

    Every sublayer is added to ``alpha`` times the normalised input, so the two projections that
    end a sublayer start larger by the same factor; otherwise training begins very slowly.
    """
    config = ChatGLMConfig(
        vocab_size=-(-tokenizer.vocab_size // 16) * 16,
        hidden_size=recipe.hidden_size,
        num_layers=recipe.num_layers,
        num_heads=recipe.num_heads,
        inner_hidden_size=4 * recipe.hidden_size,
        mask_token_id=tokenizer.mask_token_id,
        gmask_token_id=tokenizer.gmask_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = ChatGLM(config)
    for name, module in model.transformer.named_modules():
        if isinstance(module, nn.Linear):
            std = module.in_features**-0.5
            if name.endswith(("attention.dense", "dense_4h_to_h")):
                std *= DEEP_NORM_ALPHA / math.sqrt(2 * config.num_layers)
            nn.init.normal_(module.weight, std=std)
            nn.init.zeros_(module.bias)
    nn.init.normal_(model.transformer.word_embeddings.weight, std=0.02)
    return model


def build_optimizers(model: ChatGLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices of the blocks, AdamW for embeddings, biases and norms.

    In one short comparison Muon reached the same loss in about a tenth fewer steps than AdamW alone,
    at a tenth more time a step: no clear gain. Its updates are scaled to the size of AdamW's, so one
    learning rate serves both.
    """
    blocks = [p for p in model.transformer.layers.parameters() if p.ndim == 2]
    known = {id(p) for p in blocks}
    rest = [p for p in model.parameters() if id(p) not in known]
    return [
        torch.optim.Muon(
            blocks, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def answer_loss(model: ChatGLM, batch: Batch) -> Tensor:
    """Return the mean cross entropy of the answers' pieces; logits are computed nowhere else."""
    # Sequences are short, where the written-out attention has the faster backward pass.
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        hidden = model.compute_hidden_states(batch.input_ids, batch.position_ids, batch.attention_mask)
        logits = model.lm_head(hidden.flatten(0, 1)[batch.predicting])
    return F.cross_entropy(logits.float(), batch.targets)


def train(model: ChatGLM, batches: Batches, recipe: Recipe, schedule: Schedule, output: Path) -> None:
    """Run the schedule to its end, writing a checkpoint now and then and at the end."""
    optimizers = build_optimizers(model, recipe)
    model.train()
    tokens, samples, next_save, loss_average = 0, 0, 3.0, float("nan")
    while schedule.progress < 1:
        batch = batches.next(shorten=schedule.progress > recipe.shorten_after)
        loss = answer_loss(model, batch)
        model.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = schedule.learning_rate
            optimizer.step()
        schedule.step += 1
        tokens += batch.num_tokens
        samples += len(batch.input_ids)
        value = loss.item()
        loss_average = value if math.isnan(loss_average) else 0.98 * loss_average + 0.02 * value
        if schedule.step % 50 == 0:
            progress = {
                "step": schedule.step,
                "minutes": round(schedule.minutes, 2),
                "loss": round(loss_average, 4),
                "million_tokens": round(tokens / 1e6, 3),
                "samples": samples,
                "learning_rate": round(schedule.learning_rate, 6),
            }
            print(json.dumps(progress), flush=True)
        if schedule.minutes > next_save:
            write_model(model, output)
            next_save = schedule.minutes + 3
    write_model(model, output)


def main() -> None:
    """Read the command line and build the model directory."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="model directory to write")
    parser.add_argument("--minutes", type=float, default=40.0, help="training time (default: 40)")
    parser.add_argument("--steps", type=int, help="train so many steps, whatever the time")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--start-from", type=Path, help="continue from this model directory and its vocabulary"
    )
    parser.add_argument("--hidden-size", type=int, default=Recipe.hidden_size)
    parser.add_argument("--layers", type=int, default=Recipe.num_layers)
    parser.add_argument("--learning-rate", type=float, default=Recipe.learning_rate)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    recipe = Recipe(
        hidden_size=arguments.hidden_size, num_layers=arguments.layers, learning_rate=arguments.learning_rate
    )
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    if arguments.start_from is None:
        train_vocabulary(output, random.Random(arguments.seed))
    elif arguments.start_from.resolve() != output.resolve():
        shutil.copy(arguments.start_from / VOCABULARY_FILE, output / VOCABULARY_FILE)
    write_tokenizer_config(output)
    tokenizer = ChatGLMTokenizer(output)
    model = build_model(recipe, tokenizer)
    if arguments.start_from is not None:
        read_weights(model, arguments.start_from)
    print(
        json.dumps({"parameters": sum(p.numel() for p in model.parameters()), "pieces": tokenizer.vocab_size})
    )
    batches = Batches(
        model.config,
        tokenizer,
        random.Random(arguments.seed + 1),
        recipe.tokens_per_batch,
        read_development_prompts(),
    )
    train(model, batches, recipe, Schedule(recipe, arguments.steps, arguments.minutes), output)


if __name__ == "__main__":
    main()
