"""The engine on ChatGLM2 and ChatGLM3, against the originals' greedy runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from glm_runtime_torch.families import registry as families
from glm_runtime_torch.model.torch_model import TorchModel
from goldens import DATA, Case, directory2, named
from tiny_models import open_with_prompt, tiny_checkpoint2
from tiny_native import native_checkpoint

import glm_core
from glm_core import ChatRequest, Message, Sampling

GREEDY = [case for family in ("chatglm2-6b", "chatglm3-6b") for case in named(family, "greedy", at_least=4)]


def prompts_of(case: Case) -> list[list[int]]:
    """The rows of a case without their padding."""
    rows = case["input_ids"].tolist()
    if "attention_mask" not in case.tensors:
        return rows
    return [row[mask.count(0) :] for row, mask in zip(rows, case["attention_mask"].tolist(), strict=True)]


def answer(model: TorchModel, max_new_tokens: int, adapter: str | None) -> tuple[list[int], str | None]:
    """The tokens of a greedy answer, and why it ended."""
    sampling = Sampling(do_sample=False, max_new_tokens=max_new_tokens)
    deltas = list(model.stream(ChatRequest((Message("user", "x"),), sampling, adapter=adapter)))
    return [token for delta in deltas for token in delta.token_ids], deltas[-1].finish_reason


@pytest.mark.parametrize("case", GREEDY)
def test_greedy_tokens_equal_the_original(case: Case) -> None:
    """Every row alone gives the original's tokens: plain, padded, P-tuned, with one or several ends."""
    end = case.settings["eos_token_id"]
    ends = [] if end is None else end if isinstance(end, list) else [end]
    adapter = case.settings.get("ptuning_dir", "").removeprefix("ptuning-") or None
    adapters = {adapter: DATA / case.folder / f"ptuning-{adapter}"} if adapter else {}
    limit = case.settings["max_new_tokens"]
    rows = zip(prompts_of(case), case["input_ids"], case["sequences"].tolist(), strict=True)
    for prompt, padded, whole in rows:
        expected = whole[len(padded) :]
        stop = next((index for index, token in enumerate(expected) if token in ends), None)
        model = open_with_prompt(directory2(case), prompt, ends, adapters=adapters)
        assert answer(model, limit, adapter) == (expected[:stop], "length" if stop is None else "stop")
        model.close()


def test_families_are_told_apart() -> None:
    """The golden checkpoints are recognised by name, renamed ones by their length."""
    known = {"chatglm-6b": "chatglm", "chatglm2-6b": "chatglm2", "chatglm3-6b": "chatglm3"}
    shared = {"model_type": "chatglm", "multi_query_group_num": 2}
    for folder, name in known.items():
        config = {"_name_or_path": f"THUDM/{folder}", **shared}
        if folder == "chatglm-6b":
            config = {"model_type": "chatglm", "inner_hidden_size": 4}
        family = families.find_family(config)
        assert family is not None
        assert family.name == name
    for length, name in ((32768, "chatglm2"), (8192, "chatglm3"), (131072, "chatglm3")):
        family = families.find_family({"_name_or_path": "/models/mine", "seq_length": length, **shared})
        assert family is not None
        assert family.name == name


@pytest.fixture(scope="module", params=["chatglm2-6b", "chatglm3-6b", "glm", "glm4", "glm4_moe"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of each family as a user has it."""
    folder = tmp_path_factory.mktemp("family") / request.param
    if request.param.startswith("chatglm"):
        return tiny_checkpoint2(folder, request.param)
    return native_checkpoint(folder, request.param)


@pytest.mark.parametrize("quantize", ["none", "int8", "int4"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_family_runs_on_the_cpu_backend(directory: Path, dtype: str, quantize: str) -> None:
    """Through all stages: requests that run together, greedy and sampled, get what each gets alone."""
    questions = ("你好", "how do I quantise a model? " * 12, "hello", "世界")
    with glm_core.load(directory, device="cpu", dtype=dtype, quantize=quantize, slots=4) as model:

        def ask(question: str, seed: int) -> ChatRequest:
            sampling = Sampling(do_sample=bool(seed % 2), max_new_tokens=12, temperature=1.0)
            return ChatRequest((Message("user", question),), sampling, seed=seed)

        requests = [ask(question, seed) for seed, question in enumerate(questions)]
        alone = [[token for delta in model.stream(each) for token in delta.token_ids] for each in requests]
        streams = [model.stream(each) for each in requests]
        together = [[token for delta in stream for token in delta.token_ids] for stream in streams]
        assert together == alone
        assert all(alone)
