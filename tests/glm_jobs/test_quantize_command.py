"""``glm quantize`` as a user meets it: what it prints, what it refuses, what it leaves behind."""

from __future__ import annotations

import errno
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import glm_runtime_torch.checkpoints.writer as writer
import pytest
from fake_plugins import loader, run_glm, run_python
from glm_jobs import quantize
from glm_testing import make_host
from tiny_models import tiny_checkpoint

from glm_core import ConfigError, cli
from glm_core.records import ModelSource, QuantizeJob, QuantizeProgress

Fail = Callable[..., str]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny float16 checkpoint of 64 input features."""
    return tiny_checkpoint(tmp_path_factory.mktemp("source") / "tiny", hidden_size=64)


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Fail:
    """Run a command that must fail with one sentence and leave nothing at ``tmp_path / "out"``."""

    def run(source: Path | str, *arguments: str) -> str:
        assert cli.main(["quantize", str(source), str(tmp_path / "out"), *arguments]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert not (tmp_path / "out").exists()
        message = printed.err.splitlines()[-1]
        assert message.startswith("glm: ")
        assert "Traceback" not in printed.err
        return message

    return run


def damaged(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def test_the_copy_answers_after_the_original_is_gone(source: Path, tmp_path: Path) -> None:
    """In processes of their own: quantise, delete the source, chat; the path is the only output."""
    original = damaged(source, tmp_path / "original")
    done = run_glm("quantize", str(original), str(tmp_path / "out"), "--bits", "4", "--group-size", "32")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'out'}\n"), done.stderr
    shutil.rmtree(original)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["no_settings.toml", "out"]
    chat = run_glm(
        "chat", "--device", "cpu", "--model", str(tmp_path / "out"), "--max-new-tokens", "3", "hello"
    )
    assert chat.returncode == 0, chat.stderr


def test_a_known_name_is_a_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names are resolved as everywhere else; progress is plain lines where nobody watches."""
    assert cli.main(["quantize", "demo", str(tmp_path / "out"), "--bits", "8"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'out'}\n"
    lines = printed.err.splitlines()
    assert 3 <= len(lines) <= 12
    assert lines[-1] == "100%  6.08 of 6.08 MB"
    assert "\r" not in printed.err


def test_a_terminal_gets_a_bar(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that is drawn over, complete at the end."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    assert cli.main(["quantize", str(source), str(tmp_path / "out"), "--bits", "4"]) == 0
    drawings = screen.getvalue().split("\r\x1b[K")
    assert len(drawings) >= 2
    assert drawings[-1].startswith(f"[{'#' * 30}] 100%")
    assert screen.getvalue().count("\n") == 1


def test_gptq_with_a_calibration_file(source: Path, tmp_path: Path) -> None:
    """Both methods write the same kind of checkpoint, with other integers."""
    text = tmp_path / "text.txt"
    text.write_text("hello world how do I\n" * 8)
    common = ["quantize", str(source)]
    assert cli.main([*common, str(tmp_path / "rtn"), "--bits", "4"]) == 0
    gptq = ["--method", "gptq", "--calibration", str(text)]
    assert cli.main([*common, str(tmp_path / "out"), "--bits", "4", *gptq]) == 0
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("rtn", "out")]
    assert len(files[0]) == len(files[1])
    assert files[0] != files[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bits", "3"], "bits must be 8 or 4, got 3"),
        (["--bits", "4", "--group-size", "48"], "groups have 32, 64 or 128 input features, got 48"),
        (["--bits", "8", "--group-size", "32"], "int8 has one scale per row, got groups of 32"),
        (
            ["--bits", "4", "--group-size", "128"],
            "transformer.layers.0.attention.query_key_value: 64 input features do not divide into groups "
            "of 128; groups of 32 or 64 do",
        ),
        (["--bits", "4", "--method", "gptq"], "gptq needs example text: pass --calibration FILE"),
        (["--bits", "4", "--calibration", "x.txt"], "--calibration is for --method gptq"),
        (
            ["--bits", "4", "--method", "gptq", "--calibration", "nowhere.txt"],
            "nowhere.txt cannot be read: No such file or directory",
        ),
        (
            ["--bits", "4", "--method", "gptq", "--calibration", "/dev/null"],
            "/dev/null is a pipe, socket or device",
        ),
    ],
)
def test_settings_that_cannot_be_used(
    source: Path, tmp_path: Path, fails: Fail, arguments: list[str], message: str
) -> None:
    """Each is one sentence, found before anything is written."""
    assert message in fails(source, *arguments)
    assert list(tmp_path.glob("out*")) == []


def test_bits_must_be_said(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There is no default: 4 and 8 bits are different wishes."""
    assert cli.main(["quantize", str(source), str(tmp_path / "out")]) == 2
    assert "the following arguments are required: --bits" in capsys.readouterr().err


def test_a_destination_in_use_is_refused(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What stands there stays."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert cli.main(["quantize", str(source), str(tmp_path / "out"), "--bits", "4"]) == 2
    assert "exists and is not empty; choose another destination" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_cut_off_weight_file(source: Path, tmp_path: Path, fails: Fail) -> None:
    """A truncated download is named with its size."""
    broken = damaged(source, tmp_path / "cut")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors" in (message := fails(broken, "--bits", "4"))
    assert "is damaged or cut off" in message


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer_config.json"])
def test_a_git_lfs_pointer(source: Path, tmp_path: Path, fails: Fail, name: str) -> None:
    """A clone without LFS is recognised, for weights and for the files that are copied."""
    broken = damaged(source, tmp_path / "pointer")
    (broken / name).write_text("version https://git-lfs.github.com/spec/v1\nsize 1\n")
    assert f"{name} is a Git LFS pointer" in fails(broken, "--bits", "4")


def test_a_quantised_source(
    source: Path, tmp_path: Path, fails: Fail, capsys: pytest.CaptureFixture[str]
) -> None:
    """The copy of a copy is refused, and says what to take."""
    assert cli.main(["quantize", str(source), str(tmp_path / "first"), "--bits", "8"]) == 0
    capsys.readouterr()
    assert "is quantised already (quantization_bit 8 in config.json)" in fails(
        tmp_path / "first", "--bits", "4"
    )


def test_a_source_that_is_no_model(tmp_path: Path, fails: Fail) -> None:
    """A directory of something else, and a name that nobody knows."""
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert f"no installed runtime can quantise {tmp_path}" in fails(tmp_path, "--bits", "4")
    assert "is no directory, no known name and no hub id" in fails("./nowhere", "--bits", "4")


def test_a_full_disk(source: Path, tmp_path: Path, fails: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    """No space in the middle: one sentence that says what is kept and how to go on, and going on works."""

    def full(self: Any, name: str, pieces: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(writer.SafetensorsWriter, "write", full)
        message = fails(source, "--bits", "4")
    assert message.startswith(f"glm: the disk is full. {tmp_path / 'out'}.partial keeps the files")
    assert cli.main(["quantize", str(source), str(tmp_path / "out"), "--bits", "4"]) == 0
    assert [path.name for path in tmp_path.glob("out*")] == ["out"]


def test_ctrl_c_says_how_to_go_on(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt leaves nothing under the final name; the same command completes it."""

    def interrupted(self: Any, name: str, pieces: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(writer.SafetensorsWriter, "write", interrupted)
        assert cli.main(["quantize", str(source), str(tmp_path / "out"), "--bits", "4"]) == 130
    assert "glm: stopped; the same command goes on with what is finished" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert cli.main(["quantize", str(source), str(tmp_path / "out"), "--bits", "4"]) == 0


# --- plugins -----------------------------------------------------------------------------------


def host_answering(reports: Callable[[], Any]) -> Any:
    def answer(source: ModelSource, job: QuantizeJob) -> Iterator[QuantizeProgress] | None:
        answered: Iterator[QuantizeProgress] | None = reports()
        return answered

    return make_host(fake=loader(lambda source: None, quantize_checkpoint=answer))


@pytest.mark.parametrize(
    ("reports", "message"),
    [
        (lambda: None, "no installed runtime can quantise"),
        (lambda: iter([QuantizeProgress(1, 2)]), "'fake': quantize_checkpoint ended without being finished"),
        (lambda: (1 // 0 for _ in "x"), "plugin 'fake' failed in quantize_checkpoint: ZeroDivisionError"),
    ],
)
def test_a_plugin_that_breaks_its_promise_is_named(
    source: Path, fails: Fail, monkeypatch: pytest.MonkeyPatch, reports: Callable[[], Any], message: str
) -> None:
    """Declining, ending early and failing are told apart."""
    monkeypatch.setattr(quantize, "get_default_host", lambda: host_answering(reports))
    assert message in fails(source, "--bits", "4")


def test_the_job_is_what_was_asked_for(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every option reaches the plugin, and what it reports reaches the user."""
    seen: list[Any] = []

    def write(source: ModelSource, job: QuantizeJob) -> Iterator[QuantizeProgress]:
        seen.extend((source.path, job))
        return iter([QuantizeProgress(0, 0, message="going on"), QuantizeProgress(0, 0, finished=True)])

    monkeypatch.setattr(
        quantize, "get_default_host", lambda: make_host(fake=loader(lambda: None, quantize_checkpoint=write))
    )
    options = ["--bits", "4", "--group-size", "64", "--method", "gptq", "--calibration", "~/t.txt"]
    assert cli.main(["quantize", str(source), str(tmp_path / "out"), *options, "--quantize-embeddings"]) == 0
    assert seen[0] == source
    job = seen[1]
    assert (str(job.scheme), job.method, job.embeddings) == ("int4-g64", "gptq", True)
    assert job.calibration == Path.home() / "t.txt"
    assert "glm: going on" in capsys.readouterr().err


def test_help_imports_no_torch() -> None:
    """Asking for the options costs nothing."""
    code = (
        "import sys; from glm_core import cli; cli.main(['quantize', '--help']); "
        "assert 'torch' not in sys.modules"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "--quantize-embeddings" in done.stdout


def test_errors_of_core_are_not_wrapped(source: Path, fails: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a plugin raises for the user is printed as it is."""

    def reports() -> Iterator[QuantizeProgress]:
        raise ConfigError("choose something else")
        yield

    monkeypatch.setattr(quantize, "get_default_host", lambda: host_answering(reports))
    assert fails(source, "--bits", "4") == "glm: choose something else"


def test_the_result_says_what_it_is(source: Path, tmp_path: Path) -> None:
    """config.json of the copy names bits, groups and whether the table is quantised."""
    options = ["--bits", "4", "--group-size", "32", "--quantize-embeddings"]
    assert cli.main(["quantize", str(source), str(tmp_path / "out"), *options]) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))
    original = json.loads((source / "config.json").read_text("utf-8"))
    ours = {"quantization_bit": 4, "quantization_embeddings": True, "quantization_group_size": 32}
    assert config == original | ours


def test_the_runtime_is_chosen_by_name(source: Path, fails: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that quantise the same model the user chooses; a wrong name is refused with those there are."""

    def refuse() -> Iterator[QuantizeProgress]:
        raise ConfigError("asked")

    able = loader(lambda: None, quantize_checkpoint=refuse)
    host = make_host(a=able, z=loader(lambda: None, quantize_checkpoint=refuse), unable=loader(lambda: None))
    monkeypatch.setattr(quantize, "get_default_host", lambda: host)
    assert "--runtime a or --runtime z" in fails(source, "--bits", "4")
    assert fails(source, "--bits", "4", "--runtime", "z") == "glm: asked"
    message = fails(source, "--bits", "4", "--runtime", "unable")
    assert "unable cannot quantise" in message
    assert message.endswith("choose another --runtime, or leave it out")
    assert "choose one of: auto, fake" in fails(source, "--bits", "4", "--runtime", "nope")
