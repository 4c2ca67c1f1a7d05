"""The export to PEFT, read by PEFT itself."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from glm_ptuning._peft import export_peft
from glm_runtime_torch.adapters.loading import read_adapter
from goldens import DATA, cases

from glm_core import AdapterError, ConfigError

V1 = DATA / "chatglm-6b"


def keys_and_values(export: Path) -> torch.Tensor:
    """What PEFT puts into the cache of a small model of transformers, ``[L, 2, G, P, H]``."""
    peft = pytest.importorskip("peft", reason="reads the export; pip install peft")
    from transformers import GlmConfig, GlmForCausalLM

    config = GlmConfig(
        vocab_size=32,
        hidden_size=64,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=16,
        pad_token_id=0,
        eos_token_id=1,
    )
    base = GlmForCausalLM(config).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the two libraries to each other
        model: Any = peft.PeftModel.from_pretrained(base, str(export)).eval()
        ids = torch.tensor([[5, 6, 7]])
        with torch.no_grad():
            assert not torch.equal(model(input_ids=ids).logits, base(input_ids=ids).logits)
            cache = model.get_prompt(1)
    return torch.stack([torch.stack((layer.keys[0], layer.values[0])) for layer in cache.layers])


@pytest.mark.parametrize("kind", ["emb", "proj"])
def test_peft_reads_the_same_keys_and_values(tmp_path: Path, kind: str) -> None:
    """PEFT's cache holds the adapter's keys and values, the original's golden ones, for both forms."""
    export_peft(V1 / f"ptuning-{kind}", tmp_path / "peft")
    found = keys_and_values(tmp_path / "peft")
    _, encoder = read_adapter(V1 / f"ptuning-{kind}")
    assert torch.equal(found, encoder())
    golden = next(
        case
        for case in cases("chatglm-6b")
        if case.kind == "prefix_kv" and case.name.startswith(f"ptuning_{kind}")
    )
    expected = golden["prefix_kv"].transpose(2, 3)  # [L, 2, P, G, H] to [L, 2, G, P, H]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A destination that holds something, is a file or cannot be made is refused; a bad source too."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(ConfigError, match="exists and is not empty; choose another destination"):
        export_peft(V1 / "ptuning-emb", tmp_path / "full")
    with pytest.raises(ConfigError, match="cannot be written"):
        export_peft(V1 / "ptuning-emb", tmp_path / "full" / "x" / "y")
    with pytest.raises(AdapterError, match="does not exist"):
        export_peft(tmp_path / "none", tmp_path / "new")
    assert not (tmp_path / "new").exists()
