"""The runner: prompts and steps through the network, whatever they are for.

Which requests run is the scheduler's business; see `glm_runtime_torch.generation.scheduler`.

Axes: B batch · k new tokens of a row · R position rows · V vocabulary
"""

from __future__ import annotations

from collections.abc import Generator, Sequence as SequenceOf
from contextlib import AbstractContextManager, ExitStack, nullcontext

import torch
from torch import Tensor

from ..adapters.adapter import Adapter, StepHook
from ..network.kv_cache import KVCache
from ..network.language_model import LanguageModel
from .executor import DecodeExecutor, EagerExecutor
from .sequence import Sequence
from .step import StepInput

# Tokens that pass one block between two looks at the clock: of a 6-billion-parameter model on two
# cores about as much work as one decode step.
PREFILL_CHUNK = 128


class Runner:
    """Runs one network over one KV cache, on the engine's thread.

    **A batch gives every request the tokens that it gets alone.** Prefill works on one sequence at a
    time, in pieces that depend on its length only. In a step every row attends over its own positions
    only; nothing is padded to a common length. What is left are the linear layers: the CPU backend's own
    kernels add up each row in one fixed order, whatever the number of rows. Where PyTorch's kernels run
    instead, a row's rounding may change with the size of the batch in the last bit.

    Args:
        network: in evaluation mode.
        cache: slots for the sequences that run at the same time.
        device: where the network takes its inputs.
        executor: computes steps; ``None`` calls the network.

    Attributes:
        chunk_size: tokens of a prompt that pass one block at once.
    """

    def __init__(
        self,
        network: LanguageModel,
        cache: KVCache,
        device: torch.device,
        executor: DecodeExecutor | None = None,
    ) -> None:
        self.device = device
        self.chunk_size = PREFILL_CHUNK
        self._network = network
        self._cache = cache
        self._executor = EagerExecutor(network, cache, device) if executor is None else executor

    def prefill(self, sequence: Sequence, slot: int) -> Generator[None, None, Tensor]:
        """Fill a slot with what stands before the prompt and with the prompt, in short steps.

        Prefill is a generator because two know one half each: the network where it may pause, the
        scheduler when.

        Returns:
            Logits ``[V]`` of the next token.
        """
        done = sequence.cached_tokens
        if sequence.adapter is not None and not done:
            sequence.adapter.fill_slot(self._cache, slot)
        sequence.drop_filled_adapter()
        prompt, layout = sequence.prompt.token_ids, sequence.layout
        steps = self._network.prefill(
            torch.tensor([prompt[done:]], device=self.device),
            layout.compute_position_ids(done, len(prompt)).unsqueeze(0).to(self.device),
            self._cache.select_prefill_rows(slot, sequence.adapter_positions + done, layout.context_length),
            self.chunk_size,
        )
        if sequence.step_adapters:
            steps = self._apply_to_each(steps, sequence.step_adapters)
        logits = yield from steps
        return logits[0]

    def decode(self, sequences: SequenceOf[Sequence], slots: SequenceOf[int]) -> Tensor:
        """Feed each sequence's last token; return the logits ``[B, V]`` of the next ones."""
        positions = [
            sequence.layout.compute_position_ids(sequence.num_tokens - 1, sequence.num_tokens)
            for sequence in sequences
        ]
        step = StepInput(
            [(sequence.generated[-1],) for sequence in sequences],
            torch.stack(positions),
            slots,
            [sequence.adapter_positions + sequence.num_tokens for sequence in sequences],
            [sequence.step_adapters for sequence in sequences],
        )
        return self.run(step)[:, 0]

    def run(self, step: StepInput) -> Tensor:
        """Run one step and return the logits ``[B, k, V]`` after each token.

        k tokens at once give what k steps of one give. What is fixed by row holds here too: attention goes
        token by token (`glm_runtime_torch.network.kv_cache.DecodeRows`), so on kernels whose rows do not
        depend on the size of their batch, the CPU backend's, the logits are the same bit for bit. On
        PyTorch's own a linear layer over B * k rows may round the last bit of a float otherwise than one
        over B.
        """
        most = self._executor.max_tokens
        with self._apply(step.adapters):
            if most is None or step.num_tokens <= most:
                return self._executor.decode(step)
            starts = range(0, step.num_tokens, most)
            pieces = [step.select_tokens(start, min(start + most, step.num_tokens)) for start in starts]
            # Copied, because an executor may write the next piece's logits to the same place.
            return torch.cat([self._executor.decode(piece).clone() for piece in pieces], dim=1)

    def _apply(self, rows: SequenceOf[tuple[Adapter, ...]]) -> AbstractContextManager[object]:
        """Return a context in which each row's adapters are in force."""
        if not any(rows):
            return _NOTHING
        hooks: list[StepHook] = []
        for part in (part for row in rows for part in row):
            if part.step_hook is not None and part.step_hook not in hooks:
                hooks.append(part.step_hook)
        contexts = ExitStack()
        with contexts:
            for hook in hooks:
                concerned = [tuple(part for part in row if part.step_hook is hook) for row in rows]
                contexts.enter_context(hook.apply(concerned))
            return contexts.pop_all()

    def _apply_to_each(
        self, steps: Generator[None, None, Tensor], adapters: tuple[Adapter, ...]
    ) -> Generator[None, None, Tensor]:
        """Have adapters in force while a prompt's steps compute, and not between them.

        Between two of them other requests' steps run, with adapters of their own.
        """
        while True:
            with self._apply([adapters]):
                try:
                    next(steps)
                except StopIteration as done:
                    logits: Tensor = done.value
                    return logits
            yield


_NOTHING = nullcontext()
