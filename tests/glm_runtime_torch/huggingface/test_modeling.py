"""The transformers surface: every golden case again, through AutoModel and generate."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import glm_runtime_torch.plugin
import pytest
import torch
from child_process import run
from glm_runtime_torch.architectures.chatglm import ChatGLMLayer
from glm_runtime_torch.huggingface import modeling, placing
from glm_runtime_torch.huggingface.modeling import ChatGLMForConditionalGeneration
from glm_runtime_torch.model.torch_model import TorchModel
from glm_runtime_torch.quantization import QuantizedLinear
from glm_testing import make_host, make_plugin
from goldens import DATA, Case, fixtures_or_skip, named, real_positions
from key_words import containing
from safetensors.torch import load_file, save_file
from tiny_models import tiny_checkpoint
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.generation import LogitsProcessorList

from glm_core import CheckpointError, DeviceError, hookimpl
from glm_core.records import BackendInfo, DeviceInfo, Placement

V1 = "chatglm-6b"
TOLERANCE = {"float32": 2e-4, "float16": 0.05}


def model_of(case: Case, folder: str = V1) -> ChatGLMForConditionalGeneration:
    """The model of a case as a user of transformers would load it."""
    directory = DATA / folder / case.settings.get("checkpoint", "ckpt/fp16-safetensors")
    overrides = case.settings.get("config_override", {})
    config = AutoConfig.from_pretrained(directory, **overrides)
    dtype = getattr(torch, case.settings["dtype"])
    model = AutoModel.from_pretrained(directory, config=config, dtype=dtype).eval()
    if "ptuning_dir" in case.settings:
        state = torch.load(DATA / V1 / case.settings["ptuning_dir"] / "pytorch_model.bin", weights_only=True)
        missing = model.load_state_dict(state, strict=False)
        assert not missing.unexpected_keys
    return model


def inputs_of(case: Case) -> dict[str, torch.Tensor]:
    inputs = {"input_ids": case["input_ids"]}
    if case.settings.get("mask_and_positions") == "given":
        inputs |= {name: case[name] for name in ("attention_mask", "position_ids")}
    return inputs


@pytest.mark.parametrize("case", named(V1, "forward", at_least=26))
def test_forward_equals_the_original(case: Case) -> None:
    """Logits agree with masks and positions built from tokens or given in the original's form."""
    inputs = inputs_of(case)
    with torch.inference_mode():
        logits = model_of(case)(**inputs).logits.float()
    padding = (case["input_ids"] == 3) if "attention_mask" in inputs else None
    real = real_positions(case, padding)
    torch.testing.assert_close(
        logits[:, case["logit_positions"]][real],
        case["logits"][real],
        rtol=0,
        atol=TOLERANCE[case.settings["dtype"]],
    )


@pytest.mark.parametrize("case", named("quantization", "forward", at_least=6))
def test_quantised_checkpoints_equal_the_original(case: Case) -> None:
    """Pre-quantised int8, int4 and int4 with quantised embeddings load as they are, in float on the CPU."""
    model = model_of(case, "quantization").float()
    with torch.inference_mode():
        logits = model(case["input_ids"]).logits
    torch.testing.assert_close(logits[:, case["logit_positions"]], case["logits"], rtol=0, atol=2e-4)


@pytest.mark.parametrize("case", named(V1, "greedy", at_least=9))
def test_generate_equals_the_original(case: Case) -> None:
    """Transformers' generate gives the original's sequences, padded batches and end tokens included."""
    inputs = {
        name: case[name] for name in ("input_ids", "attention_mask", "position_ids") if name in case.tensors
    }
    end = case.settings["eos_token_id"]
    sequences = model_of(case).generate(
        inputs.pop("input_ids"),
        **inputs,
        do_sample=False,
        max_new_tokens=case.settings["max_new_tokens"],
        eos_token_id=-1 if end is None else end,
        pad_token_id=case.settings["pad_token_id"],
    )
    assert sequences.tolist() == case["sequences"].tolist()


@pytest.mark.parametrize("case", named(V1, "beam", at_least=1))
def test_beam_search_equals_the_original(case: Case) -> None:
    """Beam search reorders cache, positions and masks as the original's did."""
    sequences = model_of(case).generate(
        case["input_ids"],
        do_sample=False,
        num_beams=case.settings["num_beams"],
        max_new_tokens=case.settings["max_new_tokens"],
        eos_token_id=-1,
    )
    assert sequences.tolist() == case["sequences"].tolist()


@pytest.mark.parametrize("case", named(V1, "prefix_kv", at_least=2))
def test_prefix_equals_the_original(case: Case) -> None:
    """Keys and values of both prefix encoders agree."""
    encoder = model_of(case).prefix_encoder
    assert encoder is not None
    ours = encoder().transpose(2, 3)  # [L, 2, P, G, H]
    torch.testing.assert_close(ours.detach(), case["prefix_kv"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("case", named(V1, "train", at_least=3))
def test_training_equals_the_original(case: Case, checkpointing: bool) -> None:
    """Loss and gradients agree, with and without gradient checkpointing; P-Tuning trains the prefix only."""
    model = model_of(case)
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
        model.train()
        for module in model.modules():  # the goldens have dropout off
            module.training = isinstance(module, ChatGLMLayer)
    loss = model(input_ids=case["input_ids"], labels=case["labels"], use_cache=False).loss
    loss.backward()
    torch.testing.assert_close(loss.detach().view(1), case["loss"], rtol=1e-5, atol=1e-5)
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert set(gradients) == set(case.settings["grad_norms"])
    for name, norm in case.settings["grad_norms"].items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=1e-3)
    for field in case.tensors:
        if field.startswith("grad."):
            torch.testing.assert_close(
                gradients[field.removeprefix("grad.")], case[field], rtol=1e-3, atol=1e-5
            )


def test_prefix_dropout_is_active_in_training_only() -> None:
    """In training mode the prefix is dropped out at 10 %, in evaluation mode it is not."""
    case = next(
        parameter.values[0] for parameter in named(V1, "train", at_least=3) if "ptuning" in parameter.id
    )
    model = model_of(case)
    losses = {model(input_ids=case["input_ids"], labels=case["labels"]).loss.item() for _ in range(3)}
    assert len(losses) == 1
    model.train()
    torch.manual_seed(0)
    noisy = {model(input_ids=case["input_ids"], labels=case["labels"]).loss.item() for _ in range(3)}
    assert len(noisy) == 3


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def pair(tiny: Path) -> tuple[Any, ChatGLMForConditionalGeneration]:
    return AutoTokenizer.from_pretrained(tiny), AutoModel.from_pretrained(tiny).float().eval()


def test_chat_returns_reply_and_history(pair: tuple[Any, ChatGLMForConditionalGeneration]) -> None:
    """chat() grows the history by the new pair and is repeatable without sampling."""
    tokenizer, model = pair
    reply, history = model.chat(tokenizer, "你好", history=[], do_sample=False, max_length=40)
    assert history == [("你好", reply)]
    again, history = model.chat(tokenizer, "你好", history=history, do_sample=False, max_length=80)
    assert history == [("你好", reply), ("你好", again)]


def test_chat_equals_generate(pair: tuple[Any, ChatGLMForConditionalGeneration]) -> None:
    """The engine behind chat() and transformers' generate choose the same greedy tokens."""
    tokenizer, model = pair
    prompt = tokenizer(["hello world"], return_tensors="pt")["input_ids"]
    sequence = model.generate(prompt, do_sample=False, max_length=40)[0]
    expected = tokenizer.decode(sequence[prompt.shape[1] :].tolist()).strip()
    reply, _ = model.chat(tokenizer, "hello world", history=[], do_sample=False, max_length=40)
    assert reply == expected


def test_stream_chat_grows_to_the_reply(pair: tuple[Any, ChatGLMForConditionalGeneration]) -> None:
    """stream_chat() yields ever longer answers, the last of which is chat()'s."""
    tokenizer, model = pair
    steps = list(model.stream_chat(tokenizer, "你好", history=[], do_sample=False, max_length=40))
    answers = [answer for answer, _ in steps]
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(answers))
    assert steps[-1] == model.chat(tokenizer, "你好", do_sample=False, max_length=40)


def test_chatting_in_between_leaves_training_as_it_was(tiny: Path) -> None:
    """chat() on a model in training changes neither its mode, its dtypes, nor what trains."""
    model = AutoModel.from_pretrained(tiny, pre_seq_len=4).half()
    model.transformer.prefix_encoder.float()
    model.train()
    before = {name: (value.dtype, value.requires_grad) for name, value in model.named_parameters()}
    assert sum(trains for _, trains in before.values()) == 1
    model.chat(AutoTokenizer.from_pretrained(tiny), "你好", max_length=30)
    assert model.training
    assert {name: (value.dtype, value.requires_grad) for name, value in model.named_parameters()} == before


def test_chat_with_beams_uses_generate(pair: tuple[Any, ChatGLMForConditionalGeneration]) -> None:
    """num_beams above 1 answers through beam search."""
    tokenizer, model = pair
    reply, history = model.chat(tokenizer, "你好", history=[], num_beams=2, do_sample=False, max_length=30)
    assert history == [("你好", reply)]


@pytest.mark.parametrize("bits", [8, 4])
def test_quantize_replaces_the_blocks_layers(tiny: Path, bits: int) -> None:
    """quantize(8 or 4) returns the model with quantised blocks, which still answers."""
    model = AutoModel.from_pretrained(tiny).quantize(bits).float().eval()
    assert isinstance(model.transformer.layers[0].mlp.dense_h_to_4h, QuantizedLinear)
    assert model.quantize(bits) is model
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    assert isinstance(model.chat(tokenizer, "你好", max_length=30, do_sample=False)[0], str)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("mps", r"^no Apple GPU can be used: .*Leave \.half\(\)\.to\('mps'\) out and call \.float\(\)"),
        ("cuda", r"^no NVIDIA GPU can be used: .*Install the driver and a PyTorch with CUDA .*, or leave"),
        (torch.device("cuda", 1), r"^no NVIDIA GPU can be used"),
    ],
)
def test_device_that_is_not_there_is_one_clear_sentence(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, device: object, message: str
) -> None:
    """.to() of the documented usage says what is missing and what to do, quantised or not."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for model in (AutoModel.from_pretrained(tiny), AutoModel.from_pretrained(tiny).quantize(4)):
        with pytest.raises(DeviceError, match=message):
            model.half().to(device)
        with pytest.raises(DeviceError, match="^no NVIDIA GPU can be used"):
            model.half().cuda()
    assert model.to(torch.float32).dtype == torch.float32


def test_card_number_that_is_not_there(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A card beyond those of the machine is named."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DeviceError, match=containing("no cuda:3", "1 NVIDIA GPU")):
        AutoModel.from_pretrained(tiny).cuda(3)


def test_chat_goes_through_the_backend_of_its_device(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Off the processor, a backend places the model for each answer, with its own kernels, and closes it."""
    model = AutoModel.from_pretrained(tiny).float().eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    expected = model.chat(tokenizer, "hello", do_sample=False, max_length=40)[0]
    seen: list[tuple[bool, object]] = []

    @hookimpl
    def describe_backend() -> BackendInfo:
        return BackendInfo("fake", (DeviceInfo("cpu", "cpu", "a stand-in"),), kinds=("torch",))

    @hookimpl
    def place(model: TorchModel, placement: Placement) -> TorchModel:
        seen.append((model.is_borrowed, placement.slots))
        model.start(torch.device("cpu"), slots=placement.slots or 0)
        return model

    host = make_host(
        runtime=glm_runtime_torch.plugin, fake=make_plugin(describe_backend=describe_backend, place=place)
    )
    monkeypatch.setattr(placing, "get_default_host", lambda: host)
    monkeypatch.setattr(modeling, "PLACED_BY_THE_RUNTIME", ())
    assert model.chat(tokenizer, "hello", do_sample=False, max_length=40)[0] == expected
    assert seen == [(True, 1)]
    monkeypatch.setattr(placing, "get_default_host", lambda: make_host(runtime=glm_runtime_torch.plugin))
    assert model.chat(tokenizer, "hello", do_sample=False, max_length=40)[0] == expected
    assert len(seen) == 1


def test_cuda_without_a_gpu_is_one_clear_sentence(pair: tuple[Any, ChatGLMForConditionalGeneration]) -> None:
    """.cuda() where there is no GPU says what to do instead."""
    if torch.cuda.is_available():
        pytest.skip("this machine has an NVIDIA GPU")
    with pytest.raises(DeviceError, match=containing("NVIDIA GPU", ".float()")):
        pair[1].cuda()


def test_saved_model_loads_again(tiny: Path, tmp_path: Path) -> None:
    """save_pretrained writes what from_pretrained and our own runtime read, weights equal."""
    model = AutoModel.from_pretrained(tiny)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)
    assert AutoTokenizer.from_pretrained(tmp_path)("你好") == AutoTokenizer.from_pretrained(tiny)("你好")
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert config["model_type"] == "chatglm"


def test_untied_checkpoint_takes_the_embedding(tmp_path: Path, tiny: Path) -> None:
    """Where a file holds another head than the embedding, the embedding wins, as in the original."""
    state = load_file(tiny / "model.safetensors")
    state["lm_head.weight"] = torch.zeros_like(state["transformer.word_embeddings.weight"])
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((tiny / "config.json").read_bytes())
    model = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(model.lm_head.weight, state["transformer.word_embeddings.weight"])


@pytest.mark.parametrize("wrapper", ["", "module.", "base_model.model._orig_mod."])
def test_names_that_people_really_have_load(wrapper: str, tmp_path: Path, tiny: Path) -> None:
    """The head's name for the shared table, and what a wrapper puts in front, change no weight."""
    state = load_file(tiny / "model.safetensors")
    state["lm_head.weight"] = state.pop("transformer.word_embeddings.weight")
    stored = {f"{wrapper}{name}": value for name, value in state.items()}
    save_file(stored, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_bytes((tiny / "config.json").read_bytes())
    expected = dict(AutoModel.from_pretrained(tiny).named_parameters())
    found = dict(AutoModel.from_pretrained(tmp_path).named_parameters())
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.mark.parametrize(
    ("key", "value"), [("num_layers", 10**9), ("hidden_size", 2**40), ("num_attention_heads", 0)]
)
def test_impossible_configuration_is_refused_before_it_is_built(
    key: str, value: int, tmp_path: Path, tiny: Path
) -> None:
    """The auto classes name the key and its value, as ``glm`` does."""
    config = json.loads((tiny / "config.json").read_text("utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, key: value}), "utf-8")
    (tmp_path / "model.safetensors").write_bytes((tiny / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=f"{key} is {value}"):
        AutoModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("first", ["glm_runtime_torch", "transformers.AutoModel"])
def test_registration_works_in_either_import_order(tiny: Path, first: str) -> None:
    """Our classes are found whether transformers is imported before or after the runtime."""
    ours, theirs = "import glm_runtime_torch", "from transformers import AutoModel"
    order = [ours, theirs] if first == "glm_runtime_torch" else [theirs, ours]
    script = "; ".join([*order, f"print(type(AutoModel.from_pretrained({str(tiny)!r})).__module__)"])
    done = run(sys.executable, "-c", script)
    assert done.stdout.strip() == "glm_runtime_torch.huggingface.modeling"


def test_importing_the_runtime_is_light() -> None:
    """Import glm_runtime_torch loads neither torch nor transformers."""
    script = "import sys, glm_runtime_torch; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = run(sys.executable, "-c", script)
    assert done.stdout.strip() == "[]"


def test_remote_code_never_runs(tiny: Path, tmp_path: Path) -> None:
    """auto_map in the configuration is ignored, also with trust_remote_code=True."""
    for path in tiny.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = json.loads((tmp_path / "config.json").read_text("utf-8"))
    content["auto_map"] = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    (tmp_path / "config.json").write_text(json.dumps(content), "utf-8")
    (tmp_path / "evil.py").write_text("raise SystemExit('remote code ran')")
    model = AutoModel.from_pretrained(tmp_path, trust_remote_code=True)
    assert isinstance(model, ChatGLMForConditionalGeneration)


def test_processors_of_transformers_apply(pair: tuple[Any, ChatGLMForConditionalGeneration]) -> None:
    """A logits processor passed to generate sees and changes the scores."""
    tokenizer, model = pair
    prompt = tokenizer(["hello"], return_tensors="pt")["input_ids"]

    def only_token_nine(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = torch.full_like(scores, -1e4)
        scores[:, 9] = 0
        return scores

    output = model.generate(
        prompt, do_sample=False, max_new_tokens=3, logits_processor=LogitsProcessorList([only_token_nine])
    )
    assert output[0, prompt.shape[1] :].tolist() == [9, 9, 9]


def test_v1_tokenizer_pads_as_the_original() -> None:
    """Padded batches have the original's ids, 2D positions and 4D masks."""
    goldens = json.loads((DATA / "tokenizers" / "chatglm-6b.json").read_text("utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(fixtures_or_skip() / "tokenizers" / "chatglm-6b")
    compared = 0
    for golden in goldens["batches"]:
        if any("[MASK]" in text for text in golden["texts"]):
            continue  # typed control tokens stay text here
        compared += 1
        padding: dict[str, Any] = {"padding": True}
        if "max_length" in golden["call"]:
            padding = {"padding": "max_length", "max_length": 24, "truncation": True}
        batch = tokenizer(golden["texts"], **padding, return_tensors="pt")
        assert batch["input_ids"].tolist() == golden["input_ids"]
        assert batch["position_ids"].tolist() == golden["position_ids"]
        assert (
            list(batch["attention_mask"].shape) == golden["attention_mask_shape"] or len(golden["texts"]) == 1
        )
        rows = [
            ["".join(str(int(cell)) for cell in row) for row in mask[0]] for mask in batch["attention_mask"]
        ]
        assert rows == golden["attention_mask_masked"]
    assert compared >= 2
    for golden in goldens["pairs"]:
        assert tokenizer(golden["text"], golden["text_pair"])["input_ids"] == golden["ids"]
    for golden in goldens["build_inputs_with_special_tokens"]:
        assert (
            tokenizer.build_inputs_with_special_tokens(golden["ids_0"], golden["ids_1"]) == golden["result"]
        )
    assert list(tokenizer(goldens["no_padding_call"]["text"])) == goldens["no_padding_call"]["keys"]


def test_successors_are_refused_by_name() -> None:
    """ChatGLM2's config.json has the same model_type; the auto classes say what to use instead."""
    with pytest.raises(CheckpointError, match=r"of a later model .*glm_core\.load"):
        AutoConfig.from_pretrained(DATA / "chatglm2-6b" / "ckpt" / "fp16-safetensors")
