"""Files of adapters that a stranger wrote: any value in any key, any bytes in any file, any size.

Whatever is in them is an adapter, or one sentence of an `AdapterError`; never another error, never much
time or memory.
"""

from __future__ import annotations

import json
import pickle
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from glm_runtime_torch.adapters.directory import open_adapter
from glm_runtime_torch.adapters.files import CONFIG_FILE, BaseModel, save_adapter
from glm_runtime_torch.adapters.loading import load_adapter, read_adapter
from glm_runtime_torch.families.registry import CHATGLM
from glm_runtime_torch.model.directory import read_config
from goldens import DATA
from hypothesis import HealthCheck, given, settings, strategies as st
from safetensors.torch import load_file, save_file

from glm_core import AdapterError

V1 = DATA / "chatglm-6b"
CONFIG = read_config(V1, json.loads((V1 / "ckpt" / "fp16-bin" / "config.json").read_text()), CHATGLM)
NAME = "transformer.prefix_encoder.embedding.weight"
MAX_SECONDS = 2.0  # of the processor, for a look at files of some kilobytes that takes milliseconds
MAX_BYTES = 200 * 2**20


def write_ours(directory: Path) -> Path:
    """Write an adapter of our own trainer, with the base model's config.json beside it."""
    encoder = CHATGLM.build_prefix_encoder(CONFIG, 6, True)
    save_adapter(directory, encoder, family="chatglm", base=BaseModel("golden", "sha256:1"))
    shutil.copy(V1 / "ckpt" / "fp16-bin" / "config.json", directory)
    return directory


def write_shards(directory: Path) -> Path:
    """Write the original's form in shards."""
    shutil.copytree(V1 / "ptuning-proj", directory)
    state = torch.load(directory / "pytorch_model.bin", weights_only=True)
    (directory / "pytorch_model.bin").unlink()
    weight_map = {name: f"pytorch_model-{number}.bin" for number, name in enumerate(state)}
    for name, file in weight_map.items():
        torch.save({name: state[name].clone()}, directory / file)
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return directory


def write_legacy(directory: Path) -> Path:
    """Write the original's form as torch did before version 1.6."""
    shutil.copytree(V1 / "ptuning-emb", directory)
    state = torch.load(directory / "pytorch_model.bin", weights_only=True)
    torch.save(state, directory / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    return directory


def write_peft(directory: Path) -> Path:
    """Write the files of PEFT, which are refused."""
    directory.mkdir()
    save_file({"prompt_embeddings": torch.zeros(4, 384)}, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text('{"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4}')
    return directory


FORMS: dict[str, Callable[[Path], Path]] = {
    "ours": write_ours,
    "original": lambda directory: shutil.copytree(V1 / "ptuning-emb", directory),
    "shards": write_shards,
    "legacy": write_legacy,
    "peft": write_peft,
}


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A good adapter of each form."""
    folder = tmp_path_factory.mktemp("forms")
    return {name: write(folder / name) for name, write in FORMS.items()}


def resident_bytes(name: str) -> int:
    """Read a number of this process's memory, such as ``VmHWM``, the most it ever had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def look(directory: Path) -> list[str]:
    """Load an adapter with and without its model; return the refusals, and fail for anything else."""
    refusals = []
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins again at what is resident now
    memory, started = resident_bytes("VmRSS"), time.process_time()
    for load in (lambda: load_adapter(directory, CHATGLM, CONFIG), lambda: read_adapter(directory)):
        try:
            load()
        except AdapterError as error:
            refusals.append(str(error))
    assert time.process_time() - started < MAX_SECONDS
    assert resident_bytes("VmHWM") - memory < MAX_BYTES
    for refusal in refusals:
        assert len(refusal) < 1500
        assert refusal.isprintable()
    return refusals


def copy(forms: dict[str, Path], form: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy an adapter to where it can be damaged."""
    directory = tmp_path_factory.mktemp("damaged") / "adapter"
    shutil.copytree(forms[form], directory)
    return directory


def test_good_adapters_are_read(forms: dict[str, Path]) -> None:
    """What the other tests damage is whole before; PEFT's alone is refused."""
    assert {form: len(look(directory)) for form, directory in forms.items()} == {
        **dict.fromkeys(forms, 0),
        "peft": 2,
    }


# --- JSON ----------------------------------------------------------------------------------------

EXTREMES = (
    *("0", "-1", "2.5", "1e999", "NaN", "-Infinity", "1" + "0" * 400, "1" + "0" * 40, "true", "null"),
    *('"28"', '""', "[]", "{}", "[1, 2]", '"\\ud800"', '"\\u0000\\u001b[31m"', '"' + "x" * 100_000 + '"'),
    *("[" * 100_000, '{"a":' * 100_000, "[" * 50 + "]" * 50, "[" + "0," * 100_000 + "0]"),
)
VALUES = st.one_of(
    st.sampled_from(EXTREMES),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=8,
    ).map(json.dumps),
)
JSON_FILES = [
    *(("ours", CONFIG_FILE), ("ours", "config.json"), ("original", "config.json")),
    *(("shards", "pytorch_model.bin.index.json"), ("peft", "adapter_config.json")),
]


def keys_of(path: Path) -> list[str]:
    """The keys of a JSON file, and of the objects in it as ``outer.inner``."""
    content: dict[str, Any] = json.loads(path.read_text())
    inner = [f"{key}.{name}" for key, value in content.items() if isinstance(value, dict) for name in value]
    return [*content, *inner]


def put(path: Path, key: str, text: str) -> None:
    """Put JSON text, good or bad, in the place of a key's value; an unknown key is added."""
    content: dict[str, Any] = json.loads(path.read_text())
    outer, _, inner = key.partition(".")
    target = content[outer] if inner and isinstance(content.get(outer), dict) else content
    target[inner if target is not content else key] = "\0here"
    path.write_text(json.dumps(content).replace('"\\u0000here"', text))


@pytest.mark.parametrize(("form", "name"), JSON_FILES)
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_value_in_any_key(
    forms: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    form: str,
    name: str,
    data: st.DataObject,
) -> None:
    """It is understood or refused; a refusal names the file, or the adapter's directory."""
    directory = copy(forms, form, tmp_path_factory)
    key = data.draw(st.sampled_from([*keys_of(directory / name), "unknown", "quantization_bit"]))
    put(directory / name, key, data.draw(VALUES))
    for refusal in look(directory):
        assert str(directory) in refusal
    shutil.rmtree(directory)


STATED = ("family", "pre_seq_len", "prefix_projection", "num_layers", "num_kv_heads", "head_dim")


BAD_VALUES = ("null", "[]", "{}", '"28"', "2.5", "-1", "0", "1" + "0" * 40)
ALLOWED = {
    *(("training", "{}"), ("base", "{}")),
    *((key, '"28"') for key in ("family", "base.name", "created_by")),
}


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (key, text)
        for key in (*STATED, "format_version", "base", "base.name", "training", "created_by")
        for text in BAD_VALUES
        if (key, text) not in ALLOWED
    ],
)
def test_refusals_of_our_own_file_name_file_key_and_value(
    forms: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, key: str, text: str
) -> None:
    """Whatever is not of the key's type or range."""
    directory = copy(forms, "ours", tmp_path_factory)
    put(directory / CONFIG_FILE, key, text)
    refusals = look(directory)
    assert len(refusals) == 2
    for refusal in refusals:
        assert CONFIG_FILE in refusal
        assert key in refusal
        assert text[:40] in refusal


@pytest.mark.parametrize("head", [b"\xef\xbb\xbf", b"\n\n  "])
def test_byte_order_mark_and_blanks_are_read_over(
    forms: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, head: bytes
) -> None:
    """As editors on Windows leave them."""
    directory = copy(forms, "ours", tmp_path_factory)
    for path in directory.glob("*.json"):
        path.write_bytes(head + path.read_bytes())
    assert look(directory) == []


# --- bytes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_bytes_in_any_file(
    forms: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, form: str, data: st.DataObject
) -> None:
    """Replaced as a whole, cut off, or changed at some places, most of all in the head."""
    directory = copy(forms, form, tmp_path_factory)
    path = data.draw(st.sampled_from(sorted(path for path in directory.iterdir() if path.is_file())))
    content = bytearray(path.read_bytes())
    match data.draw(st.sampled_from(["replace", "cut", "change", "change in the head", "append"])):
        case "replace":
            content = bytearray(data.draw(st.binary(max_size=4096)))
        case "cut":
            del content[data.draw(st.integers(0, len(content))) :]
        case "append":
            content += data.draw(st.binary(min_size=1, max_size=64))
        case how:
            end = min(600, len(content)) if "head" in how else len(content)
            for place in data.draw(st.lists(st.integers(0, end - 1), min_size=1, max_size=8)):
                content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    look(directory)
    shutil.rmtree(directory)


@pytest.mark.parametrize(
    "facts",
    [
        {"shape": [10**9, 384]},
        {"shape": [2**62, 2**62]},
        {"shape": [-1, 384]},
        {"shape": [6.5, 384]},
        {"shape": "6"},
        {"shape": [0, 384]},
        {"shape": []},
        {"shape": [1] * 1000},
        {"data_offsets": [0, 10**15]},
        {"data_offsets": [10**15, 0]},
        {"data_offsets": [-8, 0]},
        {"dtype": "F8_E4M3"},
        {"dtype": "U16"},
        {"dtype": "none of them"},
        {"dtype": 5},
    ],
)
def test_safetensors_that_declare_what_is_not_there(
    forms: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, facts: dict[str, Any]
) -> None:
    """The head of a file is compared with the file before anything of that size is made."""
    directory = copy(forms, "ours", tmp_path_factory)
    path = directory / "model.safetensors"
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header[NAME] |= facts
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    assert len(look(directory)) == 2


# --- sizes ---------------------------------------------------------------------------------------


def write_stride(path: Path, *, new: bool) -> None:
    """Write one number that claims to be 61 GB: every row and column is the same place."""
    rows = torch.zeros(1).expand(40_000_000, 384)
    torch.save({NAME: rows}, path, _use_new_zipfile_serialization=new)


def write_bomb(path: Path) -> None:
    """Write an archive that unpacks to a thousand times its size."""
    torch.save({NAME: torch.zeros(2**18, 384)}, path.with_suffix(".plain"))
    with zipfile.ZipFile(path.with_suffix(".plain")) as plain:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for entry in plain.infolist():
                packed.writestr(entry.filename, plain.read(entry))
    path.with_suffix(".plain").unlink()


def write_pickle(path: Path) -> None:
    """Write a pickle that asks for 10 GB by itself."""

    class Large:
        def __reduce__(self) -> tuple[Any, ...]:
            return bytearray, (10**10,)

    path.write_bytes(pickle.dumps({NAME: Large()}))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_stride(path, new=True),
        lambda path: write_stride(path, new=False),
        write_bomb,
        write_pickle,
    ],
    ids=["stride-0", "stride-0-legacy", "archive", "pickle"],
)
def test_small_files_that_ask_for_much_memory(tmp_path: Path, write: Callable[[Path], None]) -> None:
    """Declared sizes are compared with the file before anything is read or made."""
    shutil.copy(V1 / "ptuning-emb" / "config.json", tmp_path)
    write(tmp_path / "pytorch_model.bin")
    assert len(look(tmp_path)) == 2


def test_prefix_longer_than_the_model_takes_is_refused(tmp_path: Path) -> None:
    """Also if all of it is there: no request could be answered with it."""
    save_file({NAME: torch.zeros(CONFIG.dimensions.context_length + 1, 384)}, tmp_path / "model.safetensors")
    with pytest.raises(AdapterError, match="positions.*tokens"):
        load_adapter(tmp_path, CHATGLM, CONFIG)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.uint8, torch.int32])
def test_integers_are_not_taken_for_a_prefix(
    forms: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, dtype: torch.dtype
) -> None:
    """Quantised numbers without their scales would answer garbage."""
    directory = copy(forms, "ours", tmp_path_factory)
    state = load_file(directory / "model.safetensors")
    state[NAME] = state[NAME].to(dtype)
    save_file(state, directory / "model.safetensors")
    for refusal in look(directory):
        assert str(dtype).removeprefix("torch.") in refusal
        assert "float32" in refusal


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_floating_point_dtype_is_read(
    forms: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, dtype: torch.dtype
) -> None:
    """As float32, in which the prefix is kept."""
    directory = copy(forms, "ours", tmp_path_factory)
    state = {name: value.to(dtype) for name, value in load_file(directory / "model.safetensors").items()}
    save_file(state, directory / "model.safetensors")
    _, encoder = read_adapter(directory)
    assert torch.equal(encoder.embedding.weight, state[NAME].float())


def test_sizes_of_the_file_must_be_those_of_the_weights(
    forms: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Without a model to compare with, the largest sizes that may be stated make nothing of that size."""
    directory = copy(forms, "ours", tmp_path_factory)
    for key in ("num_layers", "num_kv_heads", "head_dim"):
        put(directory / CONFIG_FILE, key, "65536")
    assert all("num_layers" in refusal for refusal in look(directory))


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("target", ["nowhere", CONFIG_FILE, "/dev/zero"])
def test_what_stands_in_the_place_of_the_description_is_refused(
    forms: dict[str, Path], target: str, inside: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A link that leads nowhere is no adapter of a program that writes no description."""
    directory = copy(forms, "ours", tmp_path_factory)
    (directory / CONFIG_FILE).unlink()
    (directory / CONFIG_FILE).symlink_to(target)
    with pytest.raises(AdapterError, match=CONFIG_FILE):
        open_adapter(directory, inside=directory.parent if inside else None)
