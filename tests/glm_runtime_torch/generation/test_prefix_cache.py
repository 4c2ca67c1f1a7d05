"""Prompts that slots still hold: what is reused, and that nothing changes by it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from glm_runtime_torch.adapters.adapter import Adapter
from glm_runtime_torch.adapters.prefix import PrefixAdapter
from glm_runtime_torch.generation import runner as runner_module
from glm_runtime_torch.generation.prefix_cache import PrefixCache
from glm_runtime_torch.generation.slots import SlotAllocator
from glm_runtime_torch.model.torch_model import TorchModel
from glm_runtime_torch.network.kv_cache import KVCache
from tiny_models import tiny_checkpoint, tiny_checkpoint2

import glm_core
from glm_core import ChatModel, ChatRequest, Message, Sampling

CHUNK = 4


def cache_of(slots: int) -> KVCache:
    """A cache whose contents nobody reads."""
    return KVCache(
        num_layers=1,
        num_slots=slots,
        num_kv_heads=1,
        capacity=32,
        head_dim=2,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


class Slots:
    """A prefix cache as the engine drives it."""

    def __init__(self, slots: int = 2) -> None:
        self.cache = cache_of(slots)
        self.slots = SlotAllocator(slots)
        self.prompts = PrefixCache(self.cache, self.slots, CHUNK)

    def begin(self, prompt: str, adapter: Adapter | None = None, *, causal: bool = True) -> tuple[int, int]:
        """Take a slot for a prompt whose tokens are characters, and prefill it."""
        token_ids = [ord(character) for character in prompt]
        slot, length = self.prompts.acquire(adapter, token_ids, causal=causal)
        self.prompts.keep(slot, token_ids)
        return slot, length

    def run(self, prompt: str, adapter: Adapter | None = None, *, causal: bool = True) -> tuple[int, int]:
        """The same, and give the slot back."""
        slot, length = self.begin(prompt, adapter, causal=causal)
        self.slots.release(slot)
        return slot, length


def test_next_turn_takes_the_slot_of_the_one_before() -> None:
    """A prompt that goes on from an earlier one reuses its whole chunks, in the same slot."""
    slots = Slots()
    first, nothing = slots.run("aaaabbbbcc")
    assert nothing == 0
    assert slots.run("aaaabbbbccddee") == (first, 8)
    assert slots.run("aaaabbbbccddeeffgg") == (first, 12)


def test_only_whole_chunks_are_reused_and_never_the_last_token() -> None:
    """A difference within a chunk gives the chunk up; a prompt asked again still feeds its last chunk."""
    slots = Slots()
    slots.run("aaaabbbb")
    assert slots.run("aaaabbXbcccc")[1] == 4
    assert slots.run("aaaabbXb")[1] == 4
    assert slots.run("Xaaabbbb")[1] == 0


def test_what_is_not_causal_is_never_reused() -> None:
    """A context that sees itself in both directions depends on what follows."""
    slots = Slots()
    slots.run("aaaabbbb", causal=False)
    assert slots.run("aaaabbbbcccc", causal=False)[1] == 0


def test_busy_slot_is_copied() -> None:
    """Two requests that share a beginning run at the same time: the second gets a copy of it."""
    slots = Slots()
    first, _ = slots.begin("aaaabbbbc")
    slots.cache._keys[0][first] = 7.0
    second, length = slots.begin("aaaabbbbd")
    assert (second != first, length) == (True, 8)
    assert (slots.cache._keys[0][second, :, :8] == 7).all()
    assert (slots.cache._keys[0][second, :, 8:] == 0).all()


def test_slot_that_was_wanted_longest_ago_is_given_up() -> None:
    """A new conversation takes the place of the one that was not asked for the longest."""
    slots = Slots()
    old, _ = slots.run("aaaaaaaa")
    new, _ = slots.run("bbbbbbbb")
    assert slots.run("aaaaaaaacc") == (old, 8)
    assert slots.run("dddddddd") == (new, 0)
    assert slots.run("aaaaaaaacc") == (old, 8)


def test_overwritten_part_is_not_reused() -> None:
    """After a prompt that shared only the beginning, the rest of the first is gone."""
    slots = Slots(1)
    slots.run("aaaabbbbcccc")
    slot, length = slots.prompts.acquire(None, [ord(c) for c in "aaaaXXXXYYYY"], causal=True)
    assert length == 4
    slots.slots.release(slot)  # given up before its prefill was complete
    assert slots.run("aaaabbbbccccd")[1] == 4


def prefix(name: str, value: float) -> PrefixAdapter:
    """Three positions that are all the same number."""
    return PrefixAdapter(name, torch.full((1, 2, 1, 3, 2), value))


def test_adapters_are_kept_apart_by_content() -> None:
    """Equal prompts behind other adapters, or none, share nothing, whatever the adapters' names."""
    slots = Slots(4)
    slots.run("aaaabbbb", prefix("it", 1.0))
    assert slots.run("aaaabbbbc")[1] == 0
    assert slots.run("aaaabbbbc", prefix("it", 2.0))[1] == 0
    assert slots.run("aaaabbbbcd")[1] == 8  # the second of these prompts


def test_adapter_that_comes_again_finds_its_prompts() -> None:
    """Removed, read again and even renamed, the same weights are the same adapter."""
    slots = Slots(2)
    first, _ = slots.run("aaaabbbb", prefix("it", 1.0))
    assert slots.run("aaaabbbbc", prefix("it", 1.0)) == (first, 8)
    assert slots.run("aaaabbbbc", prefix("renamed", 1.0)) == (first, 8)


def test_busy_slot_is_copied_with_its_adapter() -> None:
    """A copy holds the adapter's positions in front of the tokens."""
    slots = Slots()
    first, _ = slots.begin("aaaabbbbc", prefix("it", 1.0))
    slots.cache._keys[0][first] = 7.0
    second, length = slots.begin("aaaabbbbd", prefix("it", 1.0))
    assert length == 8
    assert (slots.cache._keys[0][second, :, :11] == 7).all()
    assert (slots.cache._keys[0][second, :, 11:] == 0).all()


def test_forgotten_prompts_are_not_reused() -> None:
    """Forgetting empties every slot; one that is being filled is known by its own adapter afterwards."""
    slots = Slots(2)
    slots.run("aaaabbbb")
    busy, _ = slots.prompts.acquire(prefix("it", 1.0), [ord(c) for c in "ccccdddd"], causal=True)
    slots.prompts.forget()
    slots.prompts.keep(busy, [ord(c) for c in "ccccdddd"])
    slots.slots.release(busy)
    assert slots.run("aaaabbbbc")[1] == 0
    assert slots.run("ccccdddde")[1] == 0


@pytest.fixture(scope="module", params=["none", "int4"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatModel]:
    """ChatGLM3 on the CPU backend, in pieces of a few tokens."""
    directory = tiny_checkpoint2(tmp_path_factory.mktemp("prompts") / "chatglm3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner_module, "PREFILL_CHUNK", 16)
        with glm_core.load(directory, dtype="bfloat16", quantize=request.param, slots=3) as opened:
            yield opened


def asked(turns: int, seed: int | None = None) -> ChatRequest:
    """The conversation up to a turn."""
    messages = [Message("system", "You answer how do I quantise a model " * 3)]
    for turn in range(turns):
        messages += [Message("user", f"question {turn}"), Message("assistant", f"answer {turn} hello " * 2)]
    sampling = Sampling(do_sample=seed is not None, max_new_tokens=10)
    return ChatRequest((*messages, Message("user", "晚上睡不着应该怎么办")), sampling, seed=seed)


def answer(model: ChatModel, request: ChatRequest) -> tuple[list[int], int]:
    """Tokens, and how many of the prompt were there already."""
    deltas = list(model.stream(request))
    assert deltas[-1].usage is not None
    return [token for delta in deltas for token in delta.token_ids], deltas[-1].usage.cached_tokens


@pytest.mark.parametrize("seed", [None, 5])
def test_cached_answers_equal_uncached_ones(model: ChatModel, seed: int | None) -> None:
    """Turn by turn, reused prompts give the tokens of a model that never saw the conversation."""
    assert isinstance(model.loaded, TorchModel)
    engine = model.loaded.engine
    turns = [asked(number, seed) for number in range(4)]
    uncached = []
    for request in turns:
        engine.forget_prompts()
        tokens, cached = answer(model, request)
        assert cached == 0
        uncached.append(tokens)
    engine.forget_prompts()
    found = [answer(model, request) for request in turns]
    assert [tokens for tokens, _ in found] == uncached
    assert found[0][1] == 0
    assert all(cached >= 32 and cached % 16 == 0 for _, cached in found[1:])


def test_shared_system_prompt_is_reused_while_it_runs(model: ChatModel) -> None:
    """Conversations that begin alike at the same time answer as each does alone."""
    assert isinstance(model.loaded, TorchModel)
    engine = model.loaded.engine
    engine.forget_prompts()
    requests = [asked(number) for number in (0, 1, 2, 0, 3)]
    alone = []
    for request in requests:
        engine.forget_prompts()
        alone.append(answer(model, request)[0])
    streams = [model.stream(request) for request in requests]
    together = [list(stream) for stream in streams]
    assert [[token for delta in deltas for token in delta.token_ids] for deltas in together] == alone
    usages = [deltas[-1].usage for deltas in together]
    assert sum(usage.cached_tokens for usage in usages if usage is not None) > 0


def test_chatglm_6b_reuses_nothing(tmp_path: Path) -> None:
    """The context of ChatGLM-6B sees itself in both directions, so its prompts are always taken in anew."""
    with glm_core.load(tiny_checkpoint(tmp_path / "v1"), dtype="float32", slots=1) as model:
        request = ChatRequest(
            (Message("user", "how do I quantise a model " * 15),), Sampling(max_new_tokens=2)
        )
        assert [answer(model, request)[1] for _ in range(2)] == [0, 0]
