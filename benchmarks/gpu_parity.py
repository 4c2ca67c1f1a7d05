"""Comparing ChatGLM-6B (v1) on a device with the golden numbers; used by gpu.py.

Logits in float32 and float16, greedy tokens through the engine, and stored int8 and int4 against their
dequantised weights.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from glm_runtime_torch.families.registry import find_family
from glm_runtime_torch.model.directory import open_directory
from glm_runtime_torch.model.torch_model import TorchModel
from glm_runtime_torch.network.layout import lay_out_batch
from torch import Tensor

from glm_core import ChatRequest, Sampling
from glm_core.records import ModelSource

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from goldens import DATA, PAD, Case, cases, network, real_positions

# The golden cases were computed on another machine with other kernels; sums in another order differ by this.
LOGIT_BOUNDS = {"float32": 2e-4, "float16": 0.05}
# Of the logits' norm: what float16 and its sums may cost beside the same integers in float32.
STORED_BOUND = 0.01

Place = Callable[[TorchModel, int], TorchModel]
"""Puts a model on the device with room for so many conversations."""


def check_parity(place: Place, device: torch.device) -> list[dict[str, Any]]:
    """Compare every golden case; each check names its largest difference, its bound and whether it holds."""
    # Matrix products of float32 would otherwise be rounded to 10 bits, which the bounds do not allow for.
    torch.backends.cuda.matmul.allow_tf32 = False
    return Parity(place, device).check()


class Parity:
    """The golden cases on one device.

    Args:
        place: puts a model there.
        device: the same, for torch.
    """

    def __init__(self, place: Place, device: torch.device) -> None:
        self._place, self._device = place, device

    def check(self) -> list[dict[str, Any]]:
        """Measure, kind by kind, the largest difference from the golden numbers and check its bound."""
        return [*self._check_forward(), self._check_greedy(), *self._check_stored()]

    def _check_forward(self) -> Iterator[dict[str, Any]]:
        """Compare logits of whole sequences, in the dtype of each case."""
        found = [case for case in cases("chatglm-6b") if case.kind == "forward"]
        found = [case for case in found if "ptuning_dir" not in case.settings]
        for dtype, bound in LOGIT_BOUNDS.items():
            worst, count = 0.0, 0
            for case in found:
                if case.settings["dtype"] == dtype:
                    worst, count = max(worst, self._measure_forward_difference(case)), count + 1
            yield _report_check(f"logits of {count} cases, {dtype}", worst, bound)

    @torch.inference_mode()
    def _measure_forward_difference(self, case: Case) -> float:
        overrides = case.settings.get("config_override", {})
        kept = tuple((key, value) for key, value in overrides.items() if key == "position_encoding_2d")
        folder = DATA / "chatglm-6b" / case.settings.get("checkpoint", "ckpt/fp16-safetensors")
        model = network(folder, getattr(torch, case.settings["dtype"]), kept)
        ids = case["input_ids"]
        padding = ids == PAD if case.settings["mask_and_positions"] == "given" else None
        positions, visible = lay_out_batch(model.find_layout, ids, padding)
        model.to(self._device)
        logits = model(*(part.to(self._device) for part in (ids, positions, visible))).float().cpu()
        model.to("cpu")
        real = real_positions(case, padding)
        return float((logits[:, case["logit_positions"]][real] - case["logits"][real]).abs().max())

    def _check_greedy(self) -> dict[str, Any]:
        """Compare tokens of the engine in float32: prefill, KV cache, kernels and recorded steps."""
        wrong = count = 0
        for folder in ("chatglm-6b", "quantization"):
            for case in cases(folder):
                if case.kind == "greedy":
                    for row, expected in zip(
                        case["input_ids"].tolist(), case["sequences"].tolist(), strict=True
                    ):
                        wrong += self._answer(case, row) != _cut_answer(case, expected[len(row) :])
                        count += 1
        return _report_check(f"greedy answers of {count} prompts, float32: wrong ones", wrong, 0)

    def _answer(self, case: Case, row: Sequence[int]) -> list[int]:
        end = case.settings["eos_token_id"]
        prompt = tuple(token for token in row if token != PAD)
        adapter = case.settings.get("ptuning_dir", "").removeprefix("ptuning-") or None
        model = self._open(_find_directory(case), "float32", [] if end is None else [end], adapter)
        sampling = Sampling(do_sample=False, max_new_tokens=case.settings["max_new_tokens"])
        request = ChatRequest(prompt=prompt, sampling=sampling, adapter=adapter)
        tokens = [token for delta in model.stream(request) for token in delta.token_ids]
        model.close()
        return tokens

    def _check_stored(self) -> Iterator[dict[str, Any]]:
        """Compare logits of steps with stored integers in float16 and with dequantised weights in float32."""
        for bits in (8, 4):
            worst, count = 0.0, 0
            for case in cases("quantization"):
                if case.kind == "greedy" and case.name.startswith(f"int{bits}"):
                    worst, count = max(worst, self._measure_step_difference(case)), count + 1
            yield _report_check(f"int{bits} steps of {count} cases, float16", worst, STORED_BOUND)

    def _measure_step_difference(self, case: Case) -> float:
        row, sequence = case["input_ids"][0].tolist(), case["sequences"][0].tolist()
        prompt, forced = [token for token in row if token != PAD], sequence[len(row) :]
        found = []
        for model in (
            self._open(_find_directory(case), "float16", []),
            _open_reference(_find_directory(case)),
        ):
            found.append(_compute_steps(model, prompt, forced))
            model.close()
        return float((found[0] - found[1]).norm() / found[1].norm())

    def _open(
        self, directory: Path, dtype: str, stop: Sequence[int], adapter: str | None = None
    ) -> TorchModel:
        return self._place(open_golden(directory, dtype, stop, adapter), 2)


class _Ids:
    """A tokenizer for checkpoints without a vocabulary: prompts come as token ids."""

    def __init__(self, vocab_size: int, stop: Sequence[int]) -> None:
        self.vocab_size = vocab_size
        self.stop_token_ids = frozenset(stop)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return no text: there is no vocabulary."""
        return ""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *_: None


def open_golden(directory: Path, dtype: str, stop: Sequence[int], adapter: str | None = None) -> TorchModel:
    """Open a golden checkpoint, which has no vocabulary; ``stop`` are the tokens that end an answer."""
    config = json.loads((directory / "config.json").read_text("utf-8"))
    known = find_family(config)
    assert known is not None
    ids: Any = _Ids(config["vocab_size"], [config["eos_token_id"]])
    family = dataclasses.replace(known, read_tokenizer=lambda _: ids)
    adapters = {adapter: DATA / "chatglm-6b" / f"ptuning-{adapter}"} if adapter else {}
    source = ModelSource("golden", directory, adapters)
    model = open_directory(source, directory, family, getattr(torch, dtype))
    model.tokenizer = _Ids(config["vocab_size"], stop)  # type: ignore[assignment]
    return model


def _open_reference(directory: Path) -> TorchModel:
    """Open the checkpoint on the processor in plain PyTorch and float32, dequantised at every call."""
    model = open_golden(directory, "float32", [])
    model.materialize(torch.device("cpu"))
    model.start(torch.device("cpu"), slots=1)
    return model


@torch.inference_mode()
def _compute_steps(model: TorchModel, prompt: Sequence[int], forced: Sequence[int]) -> Tensor:
    """Compute logits ``[steps, V]`` of prefill and decoding, with given tokens instead of chosen ones."""
    engine = model.engine
    sampling = Sampling(do_sample=False, max_new_tokens=len(forced) + 1)
    sequence = engine.prepare(ChatRequest(prompt=tuple(prompt), sampling=sampling))
    slot = engine.slots.acquire()
    found = [_run_to_end(engine.runner.prefill(sequence, slot)).float().cpu()]
    for token in forced:
        sequence.generated.append(token)
        found.append(engine.runner.decode([sequence], [slot])[0].float().cpu())
    return torch.stack(found)


def _run_to_end(steps: Any) -> Tensor:
    while True:
        try:
            next(steps)
        except StopIteration as done:
            value: Tensor = done.value
            return value


def _cut_answer(case: Case, tokens: list[int]) -> list[int]:
    end = case.settings["eos_token_id"]
    return tokens[: tokens.index(end)] if end in tokens else tokens


def _find_directory(case: Case) -> Path:
    folder = DATA / ("quantization" if case.folder == "quantization" else "chatglm-6b")
    name = case.settings.get("checkpoint", "ckpt/fp16-safetensors")
    return folder / name if (folder / name).is_dir() else DATA / "chatglm-6b" / name


def _report_check(what: str, worst: float, bound: float) -> dict[str, Any]:
    return {"what": what, "worst": worst, "bound": bound, "within": worst <= bound}
