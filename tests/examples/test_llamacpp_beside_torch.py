"""The llama.cpp runtime beside the torch runtime: who takes what, and every frontend on it."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import glm_backend_cpu.plugin
import glm_model_demo.plugin
import glm_runtime_torch.plugin
import openai
import pytest
from api_support import serving
from child_process import start_glm
from fake_plugins import run_glm, run_python, write_package
from frontend_drivers import PageDriver
from glm_testing import make_host
from packages import run_kit
from patience import PATIENCE_SECONDS

from glm_core import ChatModel, CheckpointError, DeviceError, GlmError
from glm_core.config import Settings
from glm_core.plugins import PluginHost
from glm_core.routing import open_model, resolve_model

NAMES = [("runtime_llamacpp", "runtime_torch"), ("a_gguf", "z_torch"), ("z_gguf", "a_torch")]
LIMITS = ("--max-new-tokens", "8", "--temperature", "0")


def both(llamacpp: ModuleType, gguf_name: str = NAMES[0][0], torch_name: str = NAMES[0][1]) -> PluginHost:
    """Both runtimes under these names, with the processor's backend and the demo model."""
    plugins = {gguf_name: llamacpp, torch_name: glm_runtime_torch.plugin}
    return make_host(**plugins, backend_cpu=glm_backend_cpu.plugin, model_demo=glm_model_demo.plugin)


def opened(host: PluginHost, model: str | Path, **settings: Any) -> ChatModel:
    """A model, with nothing else said than this."""
    return open_model(host, Settings(model=str(model), **settings))


@pytest.mark.parametrize(("gguf_name", "torch_name"), NAMES)
def test_each_takes_its_own_files_whatever_they_are_called(
    llamacpp: ModuleType, tiny_gguf: Path, gguf_name: str, torch_name: str
) -> None:
    """Neither the alphabet nor the order of installing decides."""
    host = both(llamacpp, gguf_name, torch_name)
    with opened(host, tiny_gguf) as model:
        assert (model.info.family, model.info.devices) == ("llama", ("llamacpp",))
    with opened(host, "demo") as model:
        assert model.info.family == "chatglm"
        assert model.info.devices == ("cpu",)


def test_directory_with_one_file_opens(llamacpp: ModuleType, tiny_gguf: Path, tmp_path: Path) -> None:
    """As a download leaves it."""
    shutil.copy(tiny_gguf, tmp_path)
    (tmp_path / "README.md").touch()
    with opened(both(llamacpp), tmp_path) as model:
        assert model.info.family == "llama"


def test_directory_of_both_formats_is_the_checkpoint_unless_the_user_says(
    llamacpp: ModuleType, tiny_gguf: Path, tmp_path: Path
) -> None:
    """Installing this package changes nothing for who has added a GGUF file to a checkpoint."""
    demo = resolve_model("demo")
    shutil.copytree(demo, tmp_path / "model")
    shutil.copy(tiny_gguf, tmp_path / "model")
    host = both(llamacpp)
    with opened(host, tmp_path / "model") as model:
        assert model.info.family == "chatglm"
    for chosen in ({"runtime": "llamacpp"}, {"device": "llamacpp"}):
        with opened(host, tmp_path / "model", **chosen) as model:
            assert model.info.family == "llama"


@pytest.mark.parametrize("runtime", ["llamacpp", "runtime_llamacpp"])
def test_runtime_is_chosen_by_its_name_or_its_plugins(
    llamacpp: ModuleType, tiny_gguf: Path, runtime: str
) -> None:
    """``--runtime`` takes both."""
    with opened(both(llamacpp), tiny_gguf, runtime=runtime) as model:
        assert model.info.family == "llama"


@pytest.mark.parametrize(
    ("model", "settings", "words"),
    [
        ("gguf", {"runtime": "torch"}, ("torch",)),
        ("demo", {"runtime": "llamacpp"}, ("llamacpp",)),
        ("gguf", {"runtime": "nonsense"}, ("nonsense", "llamacpp", "torch")),
        ("gguf", {"device": "cpu"}, ("cpu", "llamacpp")),
        ("demo", {"device": "llamacpp"}, ("llamacpp", "cpu")),
        ("gguf", {"kernels": "triton"}, ("triton",)),
        ("gguf", {"dtype": "float16"}, ("float16", "float32")),
    ],
    ids=str,
)
def test_wrong_choice_is_one_sentence(
    llamacpp: ModuleType, tiny_gguf: Path, model: str, settings: dict[str, Any], words: tuple[str, ...]
) -> None:
    """It names what was asked for, and what there is instead."""
    with pytest.raises(GlmError) as caught:
        opened(both(llamacpp), tiny_gguf if model == "gguf" else model, **settings)
    sentence = str(caught.value)
    assert "\n" not in sentence
    for word in words:
        assert word in sentence


def test_file_of_neither_is_refused(llamacpp: ModuleType, tmp_path: Path) -> None:
    """A path to one of a checkpoint's files is a common mistake; a damaged GGUF file is named as such."""
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"\x00" * 64)
    with pytest.raises(CheckpointError, match="directory"):
        opened(both(llamacpp), weights)
    pointer = tmp_path / "model.gguf"
    pointer.write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(CheckpointError, match="does not begin with the letters GGUF"):
        opened(both(llamacpp), pointer)


def test_missing_library_is_one_sentence(
    llamacpp: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GGUF file is still known as one; the sentence says what to install."""
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    monkeypatch.setattr(llamacpp, "find_spec", lambda name: None)
    with pytest.raises(DeviceError, match="pip install llama-cpp-python"):
        opened(both(llamacpp), file)


# Every command and frontend, from the wheel.


def test_broken_library_is_one_sentence(installed: Path, tmp_path: Path) -> None:
    """One that is installed and does not load is told apart from one that is not there."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "llama_cpp.py").write_text("raise OSError('libllama.so: no version information')")
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    done = run_glm("chat", "--model", file, "hi", environ={"PYTHONPATH": f"{broken}:{installed}"})
    assert done.returncode == 2
    assert "installed but cannot be used: libllama.so: no version information" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="session")
def renamed(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example from its wheel, its entry point called ``z_gguf``."""
    folder = tmp_path_factory.mktemp("renamed")
    shutil.copytree(installed / "glm_runtime_llamacpp", folder / "glm_runtime_llamacpp")
    write_package(folder, "z", "", entry_points="[glm.plugins]\nz_gguf = glm_runtime_llamacpp.plugin\n")
    return folder


def glm(installed: Path, *arguments: str | Path, **options: Any) -> tuple[int, str, str]:
    """Run a ``glm`` command with the example installed; status, output, complaints."""
    done = run_glm(*map(str, arguments), environ={"PYTHONPATH": str(installed)}, **options)
    return done.returncode, done.stdout, done.stderr


def test_chat_command_answers(installed: Path, renamed: Path, tiny_gguf: Path) -> None:
    """Beside all plugins of this environment; under another name the answer is the same."""
    status, answer, said = glm(installed, "chat", "--model", tiny_gguf, *LIMITS, "hello")
    assert status == 0, said
    assert answer.strip()
    assert "device auto: llamacpp" in said
    assert glm(renamed, "chat", "--model", tiny_gguf, *LIMITS, "hello")[:2] == (0, answer)


def test_plugins_command_says_who_takes_it(installed: Path, tiny_gguf: Path) -> None:
    """And on which device."""
    status, text, said = glm(installed, "plugins", "--model", tiny_gguf)
    assert status == 0, said
    assert "llamacpp" in text
    assert "tiny.gguf is a GGUF file" in text


def test_terminal_chat_answers_piped_questions(installed: Path, tiny_gguf: Path) -> None:
    """A line in, an answer out, and the next question knows the first."""
    status, text, said = glm(
        installed, "run", "cli", "--model", tiny_gguf, *LIMITS, input="hello\nhow are you\n"
    )
    assert status == 0, said
    assert len(text.split("\n")) >= 2
    assert "Traceback" not in said


def test_wrong_runtime_ends_the_command_with_one_sentence(installed: Path, tiny_gguf: Path) -> None:
    """Status 2, no traceback."""
    status, _, said = glm(installed, "chat", "--model", tiny_gguf, "--runtime", "nonsense", "hi")
    assert status == 2
    assert "nonsense" in said
    assert "llamacpp" in said
    assert "Traceback" not in said


def test_conversation_needs_no_torch(installed: Path, tiny_gguf: Path) -> None:
    """From loading to closing, torch and transformers are never imported."""
    program = (
        "import json, sys, glm_core\n"
        "with glm_core.load(sys.argv[1]) as model: model.chat('hi', max_new_tokens=4)\n"
        "print(json.dumps([name for name in ('torch', 'transformers') if name in sys.modules]))\n"
    )
    done = run_python("-c", program, str(tiny_gguf), environ={"PYTHONPATH": str(installed)})
    assert json.loads(done.stdout) == [], done.stderr


def test_api_answers_a_client(llamacpp: ModuleType, tiny_gguf: Path) -> None:
    """OpenAI's own client: whole and streamed answers are the same, counts and reason come along."""
    with opened(both(llamacpp), tiny_gguf) as model, serving(model) as served:
        client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
        messages: Any = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
        wanted: Any = {"model": "default", "messages": messages, "max_tokens": 12, "temperature": 0}
        whole = client.chat.completions.create(**wanted)
        assert whole.usage is not None
        assert (whole.usage.completion_tokens, whole.choices[0].finish_reason) == (12, "length")
        with client.chat.completions.create(**wanted, stream=True) as stream:
            pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
        assert "".join(pieces) == whole.choices[0].message.content
        bare = client.completions.create(model="default", prompt="how are", max_tokens=4, temperature=0)
        assert bare.usage is not None
        assert bare.usage.completion_tokens == 4
        client.close()


@pytest.fixture(scope="module")
def page(installed: Path, tiny_gguf: Path) -> Iterator[str]:
    """The address of ``glm run web`` on the tiny model."""
    options = ("--context-length", "128", "--port", "0", "--no-inbrowser")
    environment = {"PYTHONPATH": str(installed), "PYTHONUNBUFFERED": "1"}
    with start_glm("run", "web", "--model", tiny_gguf, *options, **environment) as process:
        yield process.wait_for(r"http://127\.0\.0\.1:\d+")[0]
        process.send_signal(signal.SIGINT)
        done = process.finish()
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_page_answers(page: str) -> None:
    """The start page comes, and a question sent as the browser sends it is answered."""
    port = urlsplit(page).port
    assert port is not None
    # The driver starts its frontend itself elsewhere; here it runs already.
    running: Any = SimpleNamespace(
        patience=PATIENCE_SECONDS, start=lambda options: None, wait_for_port=lambda number: None
    )
    driver = PageDriver(running, port)
    driver.start()
    try:
        assert driver.ask("hello").strip()
    finally:
        driver.close()


@pytest.mark.timeout(600)
def test_runtime_keeps_every_promise(installed: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    """The conformance kit passes on the tiny model, from the wheel."""
    attributes = {"plugin": '"runtime_llamacpp"', "model": repr(str(tiny_gguf))}
    done = run_kit(tmp_path, installed, attributes)
    assert done.returncode == 0, done.stdout
    # What it does not offer: kernels to choose from, quantising, adapters (three checks).
    assert " 5 skipped" in done.stdout
