"""The ChatGLM-6B network against numbers of the original implementation.

Tolerance: the original in float64 differs from its own float32 numbers by at most 2.2e-5, and the
smallest plausible mistake (erf instead of tanh GELU) changes logits by 1.9e-3; 2e-4 lies between.
"""

from __future__ import annotations

import json

import pytest
import torch
from glm_runtime_torch.architectures.chatglm import (
    DEEP_NORM_ALPHA,
    ChatGLM,
    ChatGLMConfig,
    ChatGLMLayout,
)
from glm_runtime_torch.network.decoder import compute_language_model_loss
from glm_runtime_torch.network.kv_cache import KVCache
from glm_runtime_torch.network.layout import lay_out_batch
from goldens import DATA, PAD, Case, named, network_of, real_positions
from tiny_models import finished

V1 = "chatglm-6b"
TOLERANCE = {"float32": 2e-4, "float16": 0.05}


def layout_of(case: Case) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Positions, visibility and padding as our code builds them for a case."""
    ids = case["input_ids"]
    given = case.settings["mask_and_positions"] == "given"
    padding = ids == PAD if given else None
    return (*lay_out_batch(network_of(case).find_layout, ids, padding), padding)


def without_prefix(case: Case) -> bool:
    return "ptuning_dir" not in case.settings


FORWARD = [
    parameter for parameter in named(V1, "forward", at_least=26) if without_prefix(parameter.values[0])
]


@pytest.mark.parametrize("case", FORWARD)
def test_positions_are_those_of_the_original(case: Case) -> None:
    """Positions built from the tokens alone equal the original's, padded rows included."""
    position_ids, _, _ = layout_of(case)
    assert torch.equal(position_ids.view(case["position_ids"].shape), case["position_ids"])


@pytest.mark.parametrize("case", FORWARD)
def test_visibility_is_the_original_mask_inverted(case: Case) -> None:
    """Every real query sees exactly the keys that the original does not block."""
    _, visible, padding = layout_of(case)
    blocked = case["attention_mask"].expand(visible.shape)
    real = torch.ones(visible.shape[0], visible.shape[2], dtype=torch.bool) if padding is None else ~padding
    assert torch.equal(visible[:, 0][real], ~blocked[:, 0][real])


@pytest.mark.parametrize("case", FORWARD)
def test_logits_equal_the_original(case: Case) -> None:
    """Logits, their logsumexp and their argmax agree at every real position."""
    position_ids, visible, padding = layout_of(case)
    with torch.inference_mode():
        logits = network_of(case)(case["input_ids"], position_ids, visible).float()
    tolerance = TOLERANCE[case.settings["dtype"]]
    real = real_positions(case, padding)
    expected = case["logits"]
    torch.testing.assert_close(
        logits[:, case["logit_positions"]][real], expected[real], rtol=0, atol=tolerance
    )
    everywhere = torch.ones_like(case["input_ids"], dtype=torch.bool) if padding is None else ~padding
    torch.testing.assert_close(
        logits.logsumexp(-1)[everywhere], case["logits_lse"][everywhere], rtol=0, atol=tolerance
    )
    if case.settings["dtype"] == "float32":
        assert torch.equal(logits.argmax(-1)[everywhere], case["logits_argmax"][everywhere])


@pytest.mark.parametrize("case", named(V1, "hidden_states", at_least=1))
def test_hidden_states_equal_the_original_layer_by_layer(case: Case) -> None:
    """Embeddings, the output of each block but the last, and the final norm's output agree."""
    model = network_of(case)
    position_ids, visible = lay_out_batch(model.find_layout, case["input_ids"])
    collected: list[torch.Tensor] = []
    with torch.inference_mode():
        model.compute_hidden_states(case["input_ids"], position_ids, visible, collected=collected)
    expected = case["hidden_states"].transpose(1, 2)  # stored [L+1, S, B, D]
    assert len(collected) == len(expected)
    torch.testing.assert_close(torch.stack(collected), expected, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("chunk_size", [3, 64])
@pytest.mark.parametrize("case", named(V1, "incremental", at_least=3))
def test_cached_steps_equal_the_original(case: Case, chunk_size: int) -> None:
    """Prefill, whole or in pieces, and single steps give the original's logits, row by row."""
    model = network_of(case)
    config = model.config
    prefill, steps = case.settings["prefill_length"], case.settings["steps"]
    for row, ids in enumerate(case["input_ids"].tolist()):
        pads = sum(token == PAD for token in ids[:prefill]) if "attention_mask" in case.tensors else 0
        ids = ids[pads:]
        layout = ChatGLMLayout.from_prompt(config, ids[: prefill - pads])
        cache = KVCache(
            num_layers=config.num_layers,
            num_slots=2,
            num_kv_heads=config.num_heads,
            capacity=64,
            head_dim=config.head_dim,
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
        slot = 1
        done = 0
        for step in range(steps + 1):
            stop = prefill - pads + step
            position_ids = layout.compute_position_ids(done, stop).unsqueeze(0)
            assert torch.equal(position_ids[0, :, -1], case["step_position_ids"][row, :, step])
            new = torch.tensor([ids[done:stop]])
            with torch.inference_mode():
                if done:
                    logits = model.decode(new, position_ids, cache.select_decode_rows([slot], [stop]))[:, -1]
                else:
                    rows = cache.select_prefill_rows(slot, 0, layout.context_length)
                    logits = finished(model.prefill(new, position_ids, rows, chunk_size))
            torch.testing.assert_close(logits[0], case["step_logits"][row, step], rtol=0, atol=2e-4)
            done = stop


@pytest.mark.parametrize("case", named(V1, "train", at_least=3)[:1])
def test_full_training_loss_and_gradients_equal_the_original(case: Case) -> None:
    """One backward pass gives the original's loss, gradients and gradient norms; the head is tied."""
    model = network_of(case)
    model.requires_grad_(True)
    position_ids, visible = lay_out_batch(model.find_layout, case["input_ids"])
    loss = compute_language_model_loss(model(case["input_ids"], position_ids, visible), case["labels"])
    gradients = dict(
        zip(
            (name for name, _ in model.named_parameters()),
            torch.autograd.grad(loss, list(model.parameters())),
            strict=True,
        )
    )
    model.requires_grad_(False)
    torch.testing.assert_close(loss.detach().view(1), case["loss"], rtol=1e-5, atol=1e-5)
    for name, norm in case.settings["grad_norms"].items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=1e-3)
    compared = [field.removeprefix("grad.") for field in case.tensors if field.startswith("grad.")]
    assert len(compared) >= 5
    for name in compared:
        torch.testing.assert_close(gradients[name], case[f"grad.{name}"], rtol=1e-3, atol=1e-5)


def test_alpha_is_that_of_28_layers_whatever_the_depth() -> None:
    """Deep-norm alpha is the square root of 56, also in a three-layer model."""
    assert pytest.approx(56.0) == DEEP_NORM_ALPHA**2


def test_prompt_without_start_token_is_refused() -> None:
    """A prompt lacking <sop> or any mask token raises ValueError, as in the original."""
    config = ChatGLMConfig()
    with pytest.raises(ValueError, match="no <sop>"):
        ChatGLMLayout.from_prompt(config, [5, 6, config.gmask_token_id])
    with pytest.raises(ValueError, match=r"neither \[gMASK\] nor \[MASK\]"):
        ChatGLMLayout.from_prompt(config, [5, 6, config.bos_token_id])


def test_impossible_shapes_are_refused() -> None:
    """A hidden size that heads or rotary positions do not divide raises ValueError."""
    with pytest.raises(ValueError, match="not a multiple of num_attention_heads"):
        ChatGLMConfig(hidden_size=65, num_heads=4)
    with pytest.raises(ValueError, match="rotary positions"):
        ChatGLMConfig(hidden_size=24, num_heads=4)


def test_real_model_has_the_published_tensors() -> None:
    """Names and shapes of the 6B network are those of the published checkpoint."""
    published = json.loads((DATA / "real-6b" / "chatglm-6b.json").read_text("utf-8"))
    with torch.device("meta"):
        model = ChatGLM(ChatGLMConfig.from_checkpoint(published["config"]))
    ours = {name: list(value.shape) for name, value in model.state_dict().items()}
    theirs = {
        entry["name"]: entry["shape"]
        for entry in published["tensors"]
        if not entry["name"].endswith("rotary_emb.inv_freq")
    }
    assert len(theirs) == 340
    assert ours == theirs
