"""Whether a model fits, by the names and shapes of the published ChatGLM-6B; no weight exists here."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from glm_runtime_torch.adapters.prefix import StoredPrefix
from glm_runtime_torch.families.registry import CHATGLM
from glm_runtime_torch.model.fitting import SHORTEST_CONTEXT, Fit, estimate_workspace_bytes, fit
from glm_runtime_torch.model.torch_model import TorchModel
from glm_runtime_torch.network.empty_weights import build_without_weights
from glm_runtime_torch.network.kv_cache import MAX_SLOTS
from glm_runtime_torch.network.parameters import list_unique_parameters
from glm_runtime_torch.quantization import expect_stored_form
from goldens import DATA
from key_words import containing, missing_words
from tiny_models import ScriptedTokenizer
from torch import nn

from glm_core import OutOfMemoryError
from glm_core.records import Placement

PUBLISHED = json.loads((DATA / "real-6b" / "chatglm-6b.json").read_text("utf-8"))
CARD, OTHER = torch.device("cuda", 0), torch.device("cuda", 1)
GB, GIB = 10**9, 2**30
ONE = Placement(("cuda:0",), slots=1, context_length=2048)


def six_billion(*, bits: int = 0, table: bool = True) -> TorchModel:
    """ChatGLM-6B without weights; quantised as ``--quantize`` does it, with the table in int8."""
    config = CHATGLM.read_config(PUBLISHED["config"])
    with build_without_weights():
        network = CHATGLM.build(config)
        if bits:
            expect_stored_form(network, {"quantization_bit": bits})
        if bits and table:
            int8_table(network)
    return TorchModel("chatglm-6b", CHATGLM, config, network, ScriptedTokenizer([]), torch.float16)


def int8_table(network: Any) -> None:
    """Replace the tied table by one in int8."""
    from glm_runtime_torch.quantization import QuantizedEmbedding, QuantizedLinear

    old = network.transformer.word_embeddings
    embedding = QuantizedEmbedding(old.num_embeddings, old.embedding_dim, 8)
    head = QuantizedLinear(old.embedding_dim, old.num_embeddings, 8, bias=False)
    head.weight, head.weight_scale = embedding.weight, embedding.weight_scale
    network.transformer.word_embeddings, network.lm_head = embedding, head


def sum_bytes(found: Fit, device: torch.device) -> int:
    """All that goes onto a device."""
    return found.weight_bytes[device] + found.kv_bytes[device] + found.workspace_bytes


def test_shapes_are_the_published_ones() -> None:
    """The arithmetic below is over the names and shapes of the published checkpoint, the tied head once."""
    ours = {name: list(value.shape) for name, value in list_unique_parameters(six_billion().network)}
    published = {tensor["name"]: tensor["shape"] for tensor in PUBLISHED["tensors"]}
    beyond = {name for name in published if name == "lm_head.weight" or name.endswith("rotary_emb.inv_freq")}
    assert ours == {name: shape for name, shape in published.items() if name not in beyond}


@pytest.mark.parametrize(("bits", "original_gib"), [(0, 13), (8, 8), (4, 6)])
def test_less_memory_than_the_original(bits: int, original_gib: int) -> None:
    """Weights, the KV cache of 2,048 tokens and the workspace stay below the original's table.

    Its numbers are sizes of graphics cards, which are sold in units of 2 ** 30 bytes.
    """
    found = fit(six_billion(bits=bits), {CARD: 80 * GB}, ONE)
    assert sum_bytes(found, CARD) < original_gib * GIB
    assert found.kv_bytes[CARD] == 2048 * 28 * 2 * 4096 * 2


def test_int4_stays_below_five_gigabytes() -> None:
    """int4 with 2,048 tokens takes less than 5 GB, workspace included."""
    assert sum_bytes(fit(six_billion(bits=4), {CARD: 6 * GB}, ONE), CARD) < 5 * GB
    # The published int4 checkpoint keeps its table in float16.
    assert sum_bytes(fit(six_billion(bits=4, table=False), {CARD: 6 * GIB}, ONE), CARD) < 6 * GB


def test_what_does_not_fit_is_refused_with_numbers_and_ways_out() -> None:
    """float16 on a card of 8 GB says what it needs, what is there, and what to do."""
    with pytest.raises(
        OutOfMemoryError,
        match=containing(
            "chatglm-6b",
            "12.3 GB for weights",
            "0.9 GB for the KV cache",
            "7.8 GB on cuda:0",
            "--quantize int4",
            "--context-length",
            "--device cuda:0,1",
        ),
    ):
        fit(six_billion(), {CARD: int(7.8 * GB)}, ONE)


def test_advice_suits_the_case() -> None:
    """A quantised model is not told to quantise; many slots are told to be fewer; a Mac has no more GPUs."""
    wanted = Placement(("mps",), slots=8, context_length=2048)
    with pytest.raises(
        OutOfMemoryError,
        match=containing("8 conversations", "on mps", "--context-length", "--slots"),
    ):
        fit(six_billion(bits=4), {torch.device("mps"): 6 * GB}, wanted)


def test_slots_come_from_what_is_left() -> None:
    """A large card holds as many conversations as there are slots at most, a small one fewer."""
    free = Placement(("cuda:0",))
    large, small = (fit(six_billion(), {CARD: size * GB}, free) for size in (80, 24))
    assert large.slots == MAX_SLOTS
    assert 1 <= small.slots < large.slots
    assert sum_bytes(small, CARD) < 24 * GB
    assert small.context_length == 4096
    assert fit(six_billion(), {CARD: 80 * GB}, Placement(("cuda:0",), kv_memory_bytes=4 * GB)).slots == 2


def test_context_shrinks_to_what_fits_and_no_further() -> None:
    """Where nobody named a length, the longest that fits is taken and said; below the least it is refused."""
    found = fit(six_billion(), {CARD: 15 * GB}, Placement(("cuda:0",)))
    assert SHORTEST_CONTEXT <= found.context_length < 4096
    assert f"of {found.context_length} tokens (not 4096, for which there is no memory)" in found.describe()
    with pytest.raises(OutOfMemoryError, match="1 conversation of 4096 tokens"):
        fit(six_billion(), {CARD: 13 * GB}, Placement(("cuda:0",)))
    with pytest.raises(OutOfMemoryError):
        fit(six_billion(), {CARD: 15 * GB}, Placement(("cuda:0",), context_length=4096))


def test_sentence_names_every_device() -> None:
    """What is said beforehand has weights, KV cache and free memory of each device."""
    found = fit(six_billion(bits=4), {CARD: int(7.8 * GB)}, ONE)
    words = ("weights 3.4 GB", "KV cache 0.9 GB", "7.8 GB free on cuda:0", "2048 tokens")
    assert not missing_words(found.describe(), *words)
    two = fit(six_billion(), {CARD: 10 * GB, OTHER: 10 * GB}, ONE)
    assert two.describe().count("free on") == 2
    assert sum(two.weight_bytes.values()) == 2 * 6173286400
    assert sum(two.kv_bytes.values()) == 2048 * 28 * 2 * 4096 * 2


def test_two_small_cards_hold_what_one_cannot() -> None:
    """What one card of 8 GiB refuses, two take, each with its own part of the KV cache."""
    cards = {CARD: 8 * GIB, OTHER: 8 * GIB}
    found = fit(six_billion(), cards, ONE)
    assert found.places.devices == (CARD, OTHER)
    assert all(sum_bytes(found, card) < size for card, size in cards.items())


def test_written_map_that_overfills_a_card_is_refused() -> None:
    """A map is obeyed or refused, with the card that is too small."""
    cards = {CARD: 8 * GIB, OTHER: 80 * GIB}
    with pytest.raises(OutOfMemoryError, match=r"free are 8\.6 GB on cuda:0\."):
        fit(six_billion(), cards, ONE, device_map={"": 0})
    assert fit(six_billion(), cards, ONE, device_map={"": 1}).places.devices == (OTHER,)


def test_weights_that_are_there_take_no_more_memory() -> None:
    """A model that already stands on its device needs room for its KV cache and workspace only."""
    model = six_billion()
    places = fit(model, {CARD: 80 * GB}, ONE).places
    found = fit(model, {CARD: 3 * GB}, ONE, places=places)
    assert found.weight_bytes[CARD] == 0
    with pytest.raises(OutOfMemoryError, match=containing("0.00 GB for weights", "--context-length")):
        fit(model, {CARD: GB}, ONE, places=places)


def test_adapters_count() -> None:
    """A prefix makes every slot longer and takes memory itself."""
    plain, tuned = six_billion(), six_billion()
    tuned._adapters["poet"] = StoredPrefix(CHATGLM.build_prefix_encoder(tuned.config, 128, False))
    before, after = (fit(model, {CARD: 80 * GB}, ONE) for model in (plain, tuned))
    assert after.kv_bytes[CARD] - before.kv_bytes[CARD] == 128 * 28 * 2 * 4096 * 2
    assert after.workspace_bytes - before.workspace_bytes == 128 * 28 * 2 * 4096 * 2


def test_workspace_grows_with_prompt_and_slots() -> None:
    """Longer prompts and more rows of logits take more to compute in."""
    model = six_billion()
    assert estimate_workspace_bytes(model, 4096, 1) > estimate_workspace_bytes(model, 2048, 1)
    assert estimate_workspace_bytes(model, 2048, 16) > estimate_workspace_bytes(model, 2048, 1)
    assert isinstance(model.network, nn.Module)
