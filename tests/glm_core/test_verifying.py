"""``--verify`` and ``glm doctor --model``: files are compared before a model is opened."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fake_plugins import FakeModel, backend, runtime
from glm_hub.checksums import write_checksums
from glm_testing import make_host

import glm_core
from glm_core import CheckpointError, ConfigError
from glm_core.cli import main
from glm_core.config import Settings
from glm_core.models import verify_files
from glm_core.records import DeviceInfo, ModelSource
from glm_core.routing import open_for_training, open_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Files whose list says that they are right."""
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    (directory / "pytorch_model.bin").write_bytes(b"weights")
    write_checksums(directory)
    return directory


def damage(directory: Path) -> Path:
    """Change one bit of the weights, which changes no size."""
    path = directory / "pytorch_model.bin"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    return directory


def test_a_damaged_model_is_not_opened_where_verifying_is_asked_for(model: Path) -> None:
    """The error names the file, and no runtime was asked to load."""
    damage(model)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        glm_core.load(model, verify=True, device="cpu")


def test_every_command_that_loads_takes_the_flag(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Chatting, measuring, quantising and training end with 2 at the damaged file."""
    damage(model)
    for command in (
        ["chat", "--model", str(model), "hello"],
        ["bench", "--model", str(model)],
        ["quantize", str(model), str(tmp_path / "out"), "--bits", "8"],
        ["train", "ptuning", "--model", str(model), "--output-dir", str(tmp_path / "job")],
    ):
        assert main([*command, "--verify"]) == 2, command
        assert "pytorch_model.bin" in capsys.readouterr().err, command
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.parametrize("origin", ["environment", "settings file"])
def test_verifying_may_be_a_setting(
    origin: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GLM_VERIFY and the settings file ask for it too."""
    damage(model)
    if origin == "environment":
        monkeypatch.setenv("GLM_VERIFY", "1")
    else:
        (tmp_path / "glm.toml").write_text("verify = true")
        monkeypatch.setenv("GLM_CONFIG", str(tmp_path / "glm.toml"))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        glm_core.load(model)


def test_what_was_compared_is_told(model: Path) -> None:
    """An intact model and an adapter of which nothing is known load, with a sentence about each."""
    adapter = model.parent / "adapter"
    shutil.copytree(model, adapter)
    (adapter / "glm_checksums.json").unlink()
    host = make_host(r=runtime(FakeModel(("a",))), b=backend(DeviceInfo("cpu", "cpu", "a processor")))
    told: list[str] = []
    wishes = Settings(model=str(model), verify=True)
    open_model(host, wishes, adapters={"a": adapter}, notify=told.append).close()
    assert any(str(model) in line and "2 files" in line for line in told)
    assert any(str(adapter) in line and "no hashes are known" in line for line in told)


def test_a_damaged_adapter_is_not_loaded(model: Path) -> None:
    """Adapters are compared as their model is."""
    adapter = damage(Path(shutil.copytree(model, model.parent / "adapter")))
    host = make_host(r=runtime(FakeModel(("a",))), b=backend(DeviceInfo("cpu", "cpu", "a processor")))
    with pytest.raises(CheckpointError, match=r"adapter(?s:.*)pytorch_model\.bin"):
        open_model(host, Settings(model=str(model), verify=True), adapters={"a": adapter})


def test_training_begins_with_files_that_are_right(model: Path) -> None:
    """What is opened for training is compared too."""
    host = make_host(r=runtime(FakeModel()), b=backend(DeviceInfo("cpu", "cpu", "a processor")))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        open_for_training(host, Settings(model=str(damage(model)), verify=True))


def test_a_model_without_files_says_that_nothing_was_compared() -> None:
    """The option never is without effect and silent."""
    assert ["no files" in line for line in verify_files(ModelSource("remote", None))] == [True]


def test_without_the_package_that_compares_the_option_is_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names what to install."""
    monkeypatch.setattr("glm_core.models.load_declared", lambda *_: None)
    with pytest.raises(ConfigError, match="pip install"):
        list(verify_files(ModelSource("m", model)))


def findings(capsys: pytest.CaptureFixture[str], name: object) -> list[dict[str, str]]:
    """What ``glm doctor --model`` finds of the files."""
    main(["doctor", "--model", str(name), "--json"])
    return [entry for entry in json.loads(capsys.readouterr().out) if entry["check"] == f"files of {name}"]


def test_doctor_compares_the_files_of_a_model(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Intact files are ok, a damaged one is a fault that names it, and so is a model that is not there."""
    assert [entry["verdict"] for entry in findings(capsys, model)] == ["ok"]
    (found,) = findings(capsys, damage(model))
    assert found["verdict"] == "fault"
    assert "pytorch_model.bin" in found["message"]
    assert main(["doctor", "--model", str(model)]) == 2
    capsys.readouterr()
    assert [entry["verdict"] for entry in findings(capsys, "no-such-model")] == ["fault"]


def test_doctor_downloads_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub id is looked up in the cache only."""
    asked: list[bool] = []

    def download(repository: str, *, offline: bool, **_: object) -> Path:
        asked.append(offline)
        raise glm_core.HubError(f"{repository} is not in the cache")

    monkeypatch.setattr("glm_hub.download", download)
    assert [entry["verdict"] for entry in findings(capsys, "org/name")] == ["fault"]
    assert asked == [True]
