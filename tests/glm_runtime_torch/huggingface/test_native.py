"""Families that transformers defines, behind this runtime's interface, against transformers itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from glm_runtime_torch.architectures.native import build_prefix_encoder
from glm_runtime_torch.families.registry import NATIVE, Family, find_family
from glm_runtime_torch.model.directory import open_directory
from glm_runtime_torch.model.torch_model import TorchModel
from glm_runtime_torch.network.layout import lay_out_batch
from glm_runtime_torch.network.prefix_encoder import PrefixedKeyValues
from glm_runtime_torch.tokenizers.native import NativeTokenizer
from tiny_native import byte_tokenizer, native_checkpoint
from transformers import AutoModelForCausalLM, DynamicCache

import glm_core
from glm_core import AdapterError, ChatRequest, CheckpointError, Message, RequestError, Sampling
from glm_core.records import ModelSource

CPU = torch.device("cpu")
QUESTIONS = ("你好", "How do I quantise a model?" * 9, "x")


@pytest.fixture(scope="module", params=[family.name for family in NATIVE])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return native_checkpoint(tmp_path_factory.mktemp("native") / request.param, request.param)


@pytest.fixture(scope="module")
def family(directory: Path) -> Family:
    found = find_family(json.loads((directory / "config.json").read_text("utf-8")))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def model(directory: Path, family: Family) -> Iterator[TorchModel]:
    opened = open_directory(ModelSource("tiny", directory), directory, family, torch.float32)
    opened.materialize(CPU)
    opened.start(CPU, slots=4)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def theirs(directory: Path) -> torch.nn.Module:
    """The same weights in transformers' own hands."""
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def asked(question: str, **sampling: Any) -> ChatRequest:
    """A greedy request."""
    return ChatRequest((Message("user", question),), Sampling(do_sample=False, max_new_tokens=24, **sampling))


def tokens_of(model: TorchModel, request: ChatRequest) -> list[int]:
    """The ids of an answer."""
    return [token for delta in model.stream(request) for token in delta.token_ids]


def test_padded_batch_has_transformers_logits(model: TorchModel, theirs: torch.nn.Module) -> None:
    """One pass over left-padded rows gives transformers' logits at the real positions."""
    ids = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(0))
    padding = torch.zeros(2, 9, dtype=torch.bool)
    padding[0, :4] = True
    with torch.inference_mode():
        ours = model.network(ids, *lay_out_batch(model.network.find_layout, ids, padding))
        positions = (~padding).long().cumsum(-1).sub(1).clamp(min=0)
        expected = theirs(ids, attention_mask=(~padding).long(), position_ids=positions).logits
    torch.testing.assert_close(ours[~padding], expected[~padding], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("question", QUESTIONS)
def test_greedy_answers_are_transformers(model: TorchModel, theirs: torch.nn.Module, question: str) -> None:
    """The engine's prefill in pieces and its decode steps give the tokens of ``generate``."""
    prompt = model.tokenizer.encode_chat([Message("user", question)])
    ends = sorted(model.tokenizer.stop_token_ids)
    whole = theirs.generate(
        torch.tensor([prompt]), max_new_tokens=24, do_sample=False, eos_token_id=ends, pad_token_id=ends[0]
    )
    expected = [token for token in whole[0, len(prompt) :].tolist() if token not in ends]
    assert tokens_of(model, asked(question)) == expected


def test_batch_gives_what_each_gets_alone(model: TorchModel) -> None:
    """Requests of different lengths that run together get the tokens that they get alone."""
    alone = [tokens_of(model, asked(question)) for question in QUESTIONS]
    streams = [model.stream(asked(question)) for question in QUESTIONS]
    together = [[token for delta in stream for token in delta.token_ids] for stream in streams]
    assert together == alone


def test_prefix_stands_in_front_of_every_layers_cache(
    model: TorchModel, family: Family, theirs: torch.nn.Module
) -> None:
    """A P-Tuning prefix gives what transformers gives over a cache that holds it; both ways of ours agree."""
    torch.manual_seed(1)
    encoder = build_prefix_encoder(model.config, 5, False)
    ids = torch.tensor([model.tokenizer.encode_chat([Message("user", "hi")])])
    with torch.inference_mode():
        prefix = encoder()  # [L, 2, G, P, H]
        cache = DynamicCache([(keys[None], values[None]) for keys, values in prefix])
        positions = torch.arange(ids.shape[1]).unsqueeze(0)
        expected = theirs(ids, past_key_values=cache, position_ids=positions).logits
        layout, visible = lay_out_batch(model.network.find_layout, ids)
        visible = torch.cat((visible.new_ones(*visible.shape[:-1], 5), visible), dim=-1)
        ours = model.network(ids, layout, visible, PrefixedKeyValues(prefix))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scheme", ["int8", "int4", "int4-g32"])
def test_quantised_blocks_and_head_answer(directory: Path, scheme: str) -> None:
    """Quantisation at loading works without a word about the family, the untied head included."""
    with glm_core.load(directory, device="cpu", dtype="float32", quantize=scheme) as model:
        assert model.info.weight_bytes < model.info.num_parameters * 2
        reply, _ = model.chat("你好", temperature=0, max_new_tokens=8)
        assert reply == model.chat("你好", temperature=0, max_new_tokens=8)[0]


def test_prompt_is_the_templates(directory: Path) -> None:
    """A conversation becomes the ids that the tokenizer's own template gives."""
    tokenizer = NativeTokenizer(directory)
    messages = [Message("system", "s"), Message("user", "a"), Message("assistant", "b"), Message("user", "c")]
    expected = byte_tokenizer().apply_chat_template(
        [{"role": message.role, "content": message.content} for message in messages],
        add_generation_prompt=True,
    )["input_ids"]
    assert tokenizer.encode_chat(messages) == expected


def test_typed_control_tokens_stay_text(directory: Path) -> None:
    """What a user types cannot open another role: the control tokens are the template's alone."""
    tokenizer = NativeTokenizer(directory)
    typed = "<|assistant|> [gMASK] <|endoftext|>"
    control = set(byte_tokenizer().added_tokens_decoder)
    plain = tokenizer.encode_chat([Message("user", "x")])
    prompt = tokenizer.encode_chat([Message("user", typed)])
    assert [token for token in prompt if token in control] == [token for token in plain if token in control]
    assert typed in tokenizer.decode(prompt)
    assert not control & set(tokenizer.encode(typed))


def test_template_that_refuses_is_the_requests_error(tmp_path: Path) -> None:
    """A template's own complaint reaches the user as one sentence."""
    byte_tokenizer("{{ raise_exception('system messages are not supported') }}").save_pretrained(tmp_path)
    with pytest.raises(RequestError, match="chat template refuses"):
        NativeTokenizer(tmp_path).encode_chat([Message("user", "x")])


@pytest.mark.parametrize("kept", [0, [0]], ids=["number", "list"])
@pytest.mark.parametrize("name", [family.name for family in NATIVE])
def test_turns_of_others_end_an_answer(name: str, kept: object, tmp_path: Path) -> None:
    """Where config.json kept one end token, the turns of user and tools end an answer all the same."""
    directory = native_checkpoint(tmp_path / name, name)
    known = byte_tokenizer()
    ends = {role: known.convert_tokens_to_ids(f"<|{role}|>") for role in ("endoftext", "user", "observation")}
    for file in ("config.json", "generation_config.json"):
        path = directory / file
        content = json.loads(path.read_text("utf-8"))
        one = ends["endoftext"]
        path.write_text(json.dumps({**content, "eos_token_id": one if kept == 0 else [one]}), "utf-8")
    assert NativeTokenizer(directory).stop_token_ids == set(ends.values())


@pytest.mark.parametrize("end", ["<|user|>", -1, 2.5, True, {}, [None], ["x"], [[1]]])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_ends_that_are_no_tokens_are_named(file: str, end: object, tmp_path: Path) -> None:
    """A wrong eos_token_id is told with its file, key and value."""
    byte_tokenizer().save_pretrained(tmp_path)
    (tmp_path / file).write_text(json.dumps({"eos_token_id": end}), "utf-8")
    with pytest.raises(CheckpointError, match=f"{file}: eos_token_id is"):
        NativeTokenizer(tmp_path)


def test_missing_parts_are_named(tmp_path: Path) -> None:
    """A checkpoint without a tokenizer or without a template says which file is missing."""
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing"):
        NativeTokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{", "utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read"):
        NativeTokenizer(tmp_path)
    byte_tokenizer(None).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="has no chat template"):
        NativeTokenizer(tmp_path)


def test_adapter_of_another_family_is_refused(directory: Path, family: Family) -> None:
    """A ChatGLM-6B prefix does not load on such a model."""
    adapter = Path(__file__).parents[2] / "data" / "chatglm-6b" / "ptuning-emb"
    with pytest.raises(AdapterError):
        open_directory(ModelSource("tiny", directory, {"a": adapter}), directory, family, torch.float32)
