"""The ChatGLM2 and ChatGLM3 network against numbers of the original implementation.

Tolerances as in ``test_chatglm.py``: the original in float64 differs from its own float32 numbers by
at most 2.2e-5.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from glm_runtime_torch.architectures.chatglm2 import (
    ChatGLM2,
    ChatGLM2Config,
    build_prefix_encoder,
    put_even_channels_first,
)
from glm_runtime_torch.checkpoints.reader import Checkpoint
from glm_runtime_torch.network.decoder import compute_language_model_loss
from glm_runtime_torch.network.kv_cache import KVCache
from glm_runtime_torch.network.layout import lay_out_batch
from glm_runtime_torch.network.prefix_encoder import PrefixedKeyValues, PrefixEncoder
from glm_runtime_torch.network.rotary import RotaryEmbedding
from goldens import DATA, Case, named, network2_of
from tiny_models import finished

FAMILIES = ("chatglm2-6b", "chatglm3-6b")
TOLERANCE = {"float32": 2e-4, "float16": 0.05}


def both(kind: str, *, at_least: int) -> list[object]:
    """The cases of a kind of both families."""
    return [case for family in FAMILIES for case in named(family, kind, at_least=at_least)]


def padding_of(case: Case) -> torch.Tensor | None:
    """``[B, S]`` bool, True = padding; ``None`` where the case has none."""
    return case["attention_mask"] == 0 if "attention_mask" in case.tensors else None


def prefix_of(case: Case) -> PrefixEncoder | None:
    """The trained prefix of a P-Tuning case."""
    if "ptuning_dir" not in case.settings:
        return None
    return stored_prefix(DATA / case.folder / case.settings["ptuning_dir"], network2_of(case).config)


def stored_prefix(directory: Path, config: ChatGLM2Config) -> PrefixEncoder:
    """The prefix encoder of an original checkpoint, in float32."""
    checkpoint = Checkpoint(directory)
    start = "transformer.prefix_encoder."
    state = {
        name.removeprefix(start): checkpoint.read(name, dtype=torch.float32, device=torch.device("cpu"))
        for name in checkpoint
        if name.startswith(start)
    }
    projection = any(name.startswith("trans.") for name in state)
    encoder = build_prefix_encoder(config, state["embedding.weight"].shape[0], projection)
    encoder.load_state_dict(state)
    return encoder


def logits_of(model: ChatGLM2, case: Case, prefix: PrefixEncoder | None) -> torch.Tensor:
    """Logits of a whole sequence in one pass."""
    padding = padding_of(case)
    position_ids, visible = lay_out_batch(model.find_layout, case["input_ids"], padding)
    store = None
    if prefix is not None:
        store = PrefixedKeyValues(prefix().to(next(model.parameters()).dtype))
        visible = torch.cat((visible.new_ones(*visible.shape[:-1], prefix.pre_seq_len), visible), dim=-1)
    return model(case["input_ids"], position_ids, visible, store).float()


@pytest.mark.parametrize("case", both("forward", at_least=8))
def test_logits_equal_the_original(case: Case) -> None:
    """Logits and their logsumexp agree at every real position: plain, P-tuned, and from stored integers."""
    model, prefix = network2_of(case), prefix_of(case)
    with torch.inference_mode():
        logits = logits_of(model, case, prefix)
    padding = padding_of(case)
    real = torch.ones_like(case["input_ids"], dtype=torch.bool) if padding is None else ~padding
    at = case["logit_positions"]
    tolerance = TOLERANCE[case.settings["dtype"]]
    torch.testing.assert_close(
        logits[:, at][real[:, at]], case["logits"][real[:, at]], rtol=0, atol=tolerance
    )
    torch.testing.assert_close(logits.logsumexp(-1)[real], case["logits_lse"][real], rtol=0, atol=tolerance)
    if case.settings["dtype"] == "float32":
        assert torch.equal(logits.argmax(-1)[real], case["logits_argmax"][real])


@pytest.mark.parametrize("case", both("hidden_states", at_least=1))
def test_hidden_states_equal_the_original_layer_by_layer(case: Case) -> None:
    """Embeddings, the output of each block but the last, and the final norm's output agree."""
    model = network2_of(case)
    position_ids, visible = lay_out_batch(model.find_layout, case["input_ids"])
    collected: list[torch.Tensor] = []
    with torch.inference_mode():
        model.compute_hidden_states(case["input_ids"], position_ids, visible, collected=collected)
    expected = case["hidden_states"].transpose(1, 2)  # stored [L+2, S, B, D]
    assert len(collected) == model.config.num_layers + 1
    torch.testing.assert_close(
        torch.stack(collected[:-1]), expected[: len(collected) - 1], rtol=1e-4, atol=2e-4
    )
    torch.testing.assert_close(collected[-1], expected[-1], rtol=1e-4, atol=2e-4)


def cache_of(model: ChatGLM2, *, capacity: int = 64) -> KVCache:
    """A cache that holds the key/value groups unexpanded."""
    config = model.config
    return KVCache(
        num_layers=config.num_layers,
        num_slots=2,
        num_kv_heads=config.num_kv_heads,
        capacity=capacity,
        head_dim=config.head_dim,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize("chunk_size", [5, 64])
@pytest.mark.parametrize("case", both("incremental", at_least=1))
def test_cached_steps_equal_the_original(case: Case, chunk_size: int) -> None:
    """Prefill, whole or in pieces, and single steps give the original's logits, row by row."""
    model = network2_of(case)
    prefill, steps = case.settings["prefill_length"], case.settings["steps"]
    for row, ids in enumerate(case["input_ids"].tolist()):
        layout = model.find_layout(ids)
        cache = cache_of(model)
        slot = 1
        for step in range(steps + 1):
            done, stop = (0, prefill) if step == 0 else (prefill + step - 1, prefill + step)
            new = torch.tensor([ids[done:stop]])
            position_ids = layout.compute_position_ids(done, stop).unsqueeze(0)
            with torch.inference_mode():
                if done:
                    logits = model.decode(new, position_ids, cache.select_decode_rows([slot], [stop]))[:, -1]
                else:
                    rows = cache.select_prefill_rows(slot, 0, layout.context_length)
                    logits = finished(model.prefill(new, position_ids, rows, chunk_size))
            torch.testing.assert_close(logits[0], case["step_logits"][row, step], rtol=0, atol=2e-4)


@pytest.mark.parametrize("case", both("chunked", at_least=1))
def test_prompt_on_top_of_a_cached_one_equals_the_original(case: Case) -> None:
    """Tokens prefilled behind what a slot holds already give the original's logits: cached = uncached."""
    model, first = network2_of(case), case.settings["prefill_length"]
    for row, ids in enumerate(case["input_ids"].tolist()):
        layout, cache = model.find_layout(ids), cache_of(model)
        slot = 1
        for start, stop in ((0, first), (first, len(ids))):
            new = torch.tensor([ids[start:stop]])
            position_ids = layout.compute_position_ids(start, stop).unsqueeze(0)
            with torch.inference_mode():
                rows = cache.select_prefill_rows(slot, start, layout.context_length)
                logits = finished(model.prefill(new, position_ids, rows, 64))
        torch.testing.assert_close(logits[0], case["chunk_logits"][row, -1], rtol=0, atol=2e-4)


@pytest.mark.parametrize("case", both("train", at_least=1))
def test_loss_and_gradients_equal_the_original(case: Case) -> None:
    """One backward pass gives the original's loss and gradients, of all weights or of the prefix alone."""
    model, prefix = network2_of(case), prefix_of(case)
    trained = model if prefix is None else prefix
    trained.requires_grad_(True)
    loss = compute_language_model_loss(logits_of(model, case, prefix), case["labels"])
    parameters = dict(trained.named_parameters())
    gradients = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
    trained.requires_grad_(False)
    torch.testing.assert_close(loss.detach().view(1), case["loss"], rtol=1e-5, atol=1e-5)
    start = "" if prefix is None else "transformer.prefix_encoder."
    compared = [field.removeprefix(f"grad.{start}") for field in case.tensors if field.startswith("grad.")]
    assert compared
    for name in compared:
        torch.testing.assert_close(gradients[name], case[f"grad.{start}{name}"], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("case", both("rotary", at_least=2))
def test_angles_are_the_originals(case: Case) -> None:
    """Cosine and sine of each pair in float32; in float16 those of ChatGLM3, which ChatGLM2's code rounds."""
    table = case["cache_fp32"]  # [positions, pairs, 2]
    positions = case["positions"] if "positions" in case.tensors else torch.arange(len(table))
    pairs = table.shape[1]
    cos, sin = RotaryEmbedding(2 * pairs).compute_cos_sin(positions, torch.float32)
    torch.testing.assert_close(torch.stack((cos, sin), dim=-1)[:, :pairs], table, rtol=0, atol=2e-4)
    if case.folder == "chatglm3-6b":
        cos, sin = RotaryEmbedding(2 * pairs).compute_cos_sin(positions, torch.float16)
        ours = torch.stack((cos, sin), dim=-1)[:, :pairs]
        torch.testing.assert_close(ours, case["cache_fp16"], rtol=0, atol=2e-3)


def test_reordered_channels_give_the_same_products() -> None:
    """Turning neighbours, as published, and halves of reordered channels give equal attention scores."""
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 3, 5, 16)
    rotary = RotaryEmbedding(8)
    positions = torch.arange(5)
    cos, sin = rotary.compute_cos_sin(positions, torch.float32)  # [T, 8], frequencies repeated once
    cos, sin = cos[:, :4], sin[:, :4]

    def turned_as_published(x: torch.Tensor) -> torch.Tensor:
        even, odd = x[..., :8:2], x[..., 1:8:2]
        pairs = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
        return torch.cat((pairs, x[..., 8:]), dim=-1)

    published = turned_as_published(q) @ turned_as_published(k).transpose(-1, -2)
    angles = rotary.compute_rotary(torch.stack((positions, 0 * positions)).unsqueeze(0), torch.float32)
    q, k = angles.rotate(put_even_channels_first(q)), angles.rotate(put_even_channels_first(k))
    ours = q @ k.transpose(-1, -2)
    torch.testing.assert_close(ours, published, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_real_model_has_the_published_tensors(family: str) -> None:
    """Names and shapes of the 6B network are those of the published checkpoint."""
    published = json.loads((DATA / "real-6b" / f"{family}.json").read_text("utf-8"))
    with torch.device("meta"):
        model = ChatGLM2(ChatGLM2Config.from_checkpoint(published["config"]))
    ours = {name: list(value.shape) for name, value in model.state_dict().items()}
    theirs = {
        entry["name"]: entry["shape"] for entry in published["tensors"] if "inv_freq" not in entry["name"]
    }
    assert len(theirs) == 199
    assert ours == theirs


def test_rope_ratio_scales_the_base_or_the_positions() -> None:
    """ChatGLM3 and GLM-4 multiply the base, ChatGLM2 divides positions."""
    raw = json.loads((DATA / "chatglm2-6b/ckpt/fp16-safetensors/config.json").read_text("utf-8"))
    raw["rope_ratio"] = 50
    base = ChatGLM2Config.from_checkpoint(raw)
    divided = ChatGLM2Config.from_checkpoint(raw, interpolates=True)
    assert (base.rope_base, base.rope_interpolation) == (500000.0, 1.0)
    assert (divided.rope_base, divided.rope_interpolation) == (10000.0, 50.0)
    far, near = (
        RotaryEmbedding(8, interpolation=ratio).compute_cos_sin(torch.tensor([position]), torch.float32)[0]
        for ratio, position in ((50.0, 100), (1.0, 2))
    )
    torch.testing.assert_close(far, near)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"multi_query_group_num": 3}, "num_attention_heads 4 is not a multiple of multi_query_group_num 3"),
        ({"kv_channels": 18}, "kv_channels 18 is not a multiple of 4"),
        ({"rmsnorm": False}, "rmsnorm is false.*true"),
        ({"post_layer_norm": False}, "post_layer_norm is false"),
        ({"apply_residual_connection_post_layernorm": True}, "post_layernorm is true.*false"),
    ],
)
def test_impossible_shapes_are_refused(change: dict[str, object], message: str) -> None:
    """A configuration that no published model has raises ValueError and names the key."""
    raw = json.loads((DATA / "chatglm2-6b/ckpt/fp16-safetensors/config.json").read_text("utf-8"))
    with pytest.raises(ValueError, match=message):
        ChatGLM2Config.from_checkpoint({**raw, **change})
