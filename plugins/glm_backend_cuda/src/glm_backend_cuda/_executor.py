"""Decode steps that are recorded once and replayed, so that the GPU does not wait for Python.

A recorded step reads its inputs from fixed places. There is one recording for each of a few batch sizes;
a batch of another size runs in the next larger one, its unused rows marked as padding by length 0: such rows
store nothing, so no slot of the KV cache has to be reserved for them.

Axes: B batch · R position rows · V vocabulary
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import torch
from glm_runtime_torch.backends import DecodeExecutor, EagerExecutor, KVCache, LanguageModel, StepInput
from torch import Tensor

_log = logging.getLogger("glm")

Step = Callable[[], Tensor]
Recording = Callable[[], Tensor]
# Rows of the table of inputs before the positions: token, slot, length.
TOKEN, SLOT, LENGTH, POSITIONS = range(4)


class Recorder(Protocol):
    """Records work on a device."""

    def record(self, step: Step) -> Recording:
        """Do a step and record it; calling the result repeats it with what its inputs then hold.

        The tensor that it returns is the same at every call.
        """
        ...


class CudaGraphs:
    """`Recorder` of CUDA graphs; recordings share their temporary memory, since one runs at a time.

    Args:
        device: of the work.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: object | None = None

    def record(self, step: Step) -> Recording:
        """Implement `Recorder.record`."""
        with torch.cuda.device(self._device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # compiles kernels and makes libraries allocate what they keep
                step()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # Other threads may allocate meanwhile; only this one must not.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):  # type: ignore[arg-type]
                output = step()
        self._pool = graph.pool() if self._pool is None else self._pool

        def replay() -> Tensor:
            with torch.cuda.device(self._device):
                graph.replay()
            return output

        return replay


def choose_batch_sizes(num_slots: int) -> tuple[int, ...]:
    """Return the batch sizes to record: powers of two, and the largest batch that there can be.

    Powers of two, because each recording costs time and memory, and a batch still computes fewer than twice
    its rows.
    """
    sizes = [1]
    while sizes[-1] * 2 < num_slots:
        sizes.append(sizes[-1] * 2)
    return (*sizes, num_slots) if num_slots > sizes[-1] else tuple(sizes)


class RecordedExecutor:
    """`DecodeExecutor` that replays recorded steps.

    A batch size is recorded when it first occurs. If that fails, steps run operation by operation from
    then on, and a warning says so.

    Args:
        network: in evaluation mode.
        cache: its attention takes tensors; see `glm_runtime_torch.backends.DecodeAttention`.
        device: where both are.
        recorder: that records the steps.
    """

    max_tokens: int | None = 1  # the table of inputs has one token a row

    def __init__(
        self, network: LanguageModel, cache: KVCache, device: torch.device, recorder: Recorder
    ) -> None:
        self._network = network
        self._cache = cache
        self._device = device
        self._recorder = recorder
        self._sizes = choose_batch_sizes(cache.num_slots)
        self._eager: DecodeExecutor = EagerExecutor(network, cache, device)
        self._recordings: dict[int, Recording] = {}
        self._failed = False
        self._staged: Tensor | None = None  # inputs on the CPU, ``[3 + R, B]``
        self._inputs: Tensor | None = None  # the same on the device

    def decode(self, step: StepInput) -> Tensor:
        """Implement `DecodeExecutor.decode`."""
        count = len(step.slots)
        size = next((size for size in self._sizes if size >= count), None)
        # A recording computes what the layers did when it was made; adapters may have them do something else.
        if self._failed or size is None or any(step.adapters):
            return self._eager.decode(step)
        staged, inputs = self._prepare_tables(step.position_ids.shape[1])
        staged[:, :size].zero_()
        staged[TOKEN, :count] = torch.tensor([token for (token,) in step.token_ids])
        staged[SLOT, :count] = torch.tensor(step.slots)
        staged[LENGTH, :count] = torch.tensor(step.lengths)
        staged[POSITIONS:, :count] = step.position_ids[:, :, 0].T
        # The step before was waited for when its tokens were chosen, so nobody reads these places now.
        inputs.copy_(staged, non_blocking=True)
        if size not in self._recordings and not self._record(size, inputs):
            return self._eager.decode(step)
        return self._recordings[size]()[:count]

    def _prepare_tables(self, num_position_rows: int) -> tuple[Tensor, Tensor]:
        if self._staged is None or self._inputs is None:
            shape = POSITIONS + num_position_rows, self._sizes[-1]
            pinned = self._device.type == "cuda"
            self._staged = torch.zeros(shape, dtype=torch.int64, pin_memory=pinned)
            self._inputs = torch.zeros(shape, dtype=torch.int64, device=self._device)
        return self._staged, self._inputs

    def _record(self, size: int, inputs: Tensor) -> bool:
        rows = self._cache.select_decode_rows(inputs[SLOT, :size], inputs[LENGTH, :size])
        token_ids = inputs[TOKEN, :size].unsqueeze(1)
        position_ids = inputs[POSITIONS:, :size].T.unsqueeze(2)
        try:
            self._recordings[size] = self._recorder.record(
                lambda: self._network.decode(token_ids, position_ids, rows)
            )
        except Exception as error:  # whatever it was, the same step can be computed without a recording
            self._failed = True
            _log.warning(
                "decode steps of %d rows cannot be recorded on %s (%s: %s); they run one operation at a "
                "time, which is slower",
                size,
                self._device,
                type(error).__name__,
                error,
            )
        return not self._failed
