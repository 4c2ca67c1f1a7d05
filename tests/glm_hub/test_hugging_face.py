"""Downloading from Hugging Face's hub, against a stand-in on the loopback interface."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from glm_hub import download
from glm_hub.checksums import GIT_SHA1, SHA256, KnownFile, find_checksums
from glm_hub.verify import verify_path
from hub_machine import (
    COMMIT,
    DATA,
    NEWER,
    OTHER_WEIGHTS,
    PYTHON,
    WEIGHTS,
    Machine,
    contents,
    nowhere,
)
from key_words import containing, missing_words
from patience import wait_until
from standin_hub import StandinHub, git_sha1, sha256, standin_hub

from glm_core.errors import HubError


@pytest.fixture
def hub() -> Iterator[StandinHub]:
    """A hub that offers nothing yet."""
    with standin_hub() as served:
        yield served


@pytest.fixture
def machine(hub: StandinHub, tmp_path: Path) -> Machine:
    """A machine with an empty cache that takes its models from the stand-in."""
    return Machine(tmp_path, "huggingface", {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")})


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    """Where the unfinished weights are kept."""
    path = tmp_path / "hf/hub/models--org--name/blobs" / f"{sha256(WEIGHTS)}.incomplete"
    path.parent.mkdir(parents=True)
    return path


class TestFiles:
    """Which files are fetched from Hugging Face's hub."""

    def test_only_data_files_arrive(self, hub: StandinHub, machine: Machine) -> None:
        """All data files arrive whole; the Python code that a model offers is not even asked for."""
        data = DATA | {"model.safetensors": WEIGHTS}
        hub.offer("org/name", data | PYTHON)
        assert contents(machine.download()) == data
        assert not [request for request in hub.requests if request.path.endswith((".py", ".md"))]

    def test_safetensors_replace_torch_files(self, hub: StandinHub, machine: Machine) -> None:
        """Where both forms of weights are offered, only safetensors are asked for."""
        hub.offer("org/name", DATA | {"model.safetensors": WEIGHTS, "pytorch_model.bin": OTHER_WEIGHTS})
        assert "pytorch_model.bin" not in contents(machine.download())
        assert not hub.fetched(".bin")

    def test_torch_shards_come_where_nothing_else_is(self, hub: StandinHub, machine: Machine) -> None:
        """Where there are only ``.bin`` shards, all of them arrive."""
        shards = {
            "pytorch_model-00001-of-00002.bin": WEIGHTS,
            "pytorch_model-00002-of-00002.bin": OTHER_WEIGHTS,
        }
        hub.offer("org/name", DATA | shards)
        assert contents(machine.download()) == DATA | shards

    def test_cache_without_links(self, hub: StandinHub, machine: Machine) -> None:
        """A cache that cannot hold links (Windows) gets the files all the same, and only once."""
        machine.environment |= {"HF_HUB_DISABLE_SYMLINKS": "1", "HF_HUB_DISABLE_XET": "1"}
        data = DATA | {"model.safetensors": WEIGHTS}
        hub.offer("org/name", data)
        folder = machine.download()
        assert contents(folder) == data
        assert not [path for path in folder.parents[1].rglob(sha256(WEIGHTS)) if path.is_file()]

    def test_mirrors_are_not_passed_by(self, hub: StandinHub, machine: Machine) -> None:
        """Weights come from the endpoint that was named, even if it says that Xet has them too."""
        hub.offer("org/name", {"model.safetensors": WEIGHTS})
        machine.download()
        assert hub.fetched(".safetensors")
        assert not [request for request in hub.requests if "xet" in request.path]

    def test_token_stays_with_the_hub(self, hub: StandinHub, machine: Machine) -> None:
        """The user's token goes to the hub, and not to the store that the hub redirects to."""
        machine.environment["HF_TOKEN"] = "hf_secret"
        hub.offer("org/name", {"model.safetensors": WEIGHTS})
        machine.download()
        at_store = [request.authorization for request in hub.requests if "/content/" in request.path]
        assert [request.authorization for request in hub.fetched()] == ["Bearer hf_secret"]
        assert at_store == [None]

    def test_what_the_hub_says_of_hashes_is_kept(self, hub: StandinHub, machine: Machine) -> None:
        """The list has every file with its size and hash, as `glm verify` finds them later, offline."""
        hub.offer("org/name", DATA | {"model.safetensors": WEIGHTS})
        folder = machine.download()
        found = find_checksums(folder)
        assert found is not None
        assert found.origin == f"org/name at {COMMIT}"
        assert found.files == {
            "config.json": KnownFile(len(DATA["config.json"]), GIT_SHA1, git_sha1(DATA["config.json"])),
            "ice_text.model": KnownFile(len(DATA["ice_text.model"]), SHA256, sha256(DATA["ice_text.model"])),
            "model.safetensors": KnownFile(len(WEIGHTS), SHA256, sha256(WEIGHTS)),
        }
        assert {check.verdict for check in verify_path(folder)} == {"ok"}
        blob = (folder / "ice_text.model").resolve()
        blob.write_bytes(b"piecez")
        damaged = [check.name for check in verify_path(folder) if check.verdict == "damaged"]
        assert damaged == ["ice_text.model"]

    def test_hashes_are_known_without_the_list(self, hub: StandinHub, machine: Machine) -> None:
        """Where another program downloaded the model, the names of the cache's blobs are the hashes."""
        hub.offer("org/name", DATA)
        folder = machine.download()
        shutil.rmtree(folder.parents[1] / "glm")
        assert {check.name: check.verdict for check in verify_path(folder)} == dict.fromkeys(DATA, "ok")

    def test_a_model_without_data_files_is_an_error(self, hub: StandinHub, machine: Machine) -> None:
        """A repository with nothing to load says so."""
        hub.offer("org/name", PYTHON)
        assert "holds none of a model's files" in machine.failure()


class TestRevisions:
    """Which commit is fetched from Hugging Face's hub."""

    @pytest.mark.parametrize("revision", ["v1.0", COMMIT])
    def test_pinned_revision(self, hub: StandinHub, machine: Machine, revision: str) -> None:
        """A tag or a commit is fetched although ``main`` has moved on."""
        hub.offer("org/name", {"config.json": b"old"}, COMMIT, "v1.0")
        hub.offer("org/name", {"config.json": b"new"}, NEWER)
        assert contents(machine.download(revision=revision)) == {"config.json": b"old"}

    def test_all_files_are_of_one_commit(self, hub: StandinHub, machine: Machine) -> None:
        """A branch is looked up once; each file is asked for by the commit found then."""
        hub.offer("org/name", DATA | {"model.safetensors": WEIGHTS})
        machine.download(revision="main")
        named = [request.path for request in hub.requests if "/main" in request.path]
        assert named == ["/api/models/org/name/revision/main"]
        assert len({request.path for request in hub.fetched()}) == 3
        assert all(f"/resolve/{COMMIT}/" in request.path for request in hub.fetched())

    def test_new_commit_fetches_what_changed(self, hub: StandinHub, machine: Machine) -> None:
        """When the model moves on, files with the same content are not fetched again."""
        hub.offer("org/name", {"config.json": b"old", "model.safetensors": WEIGHTS})
        machine.download()
        hub.offer("org/name", {"config.json": b"new", "model.safetensors": WEIGHTS}, NEWER)
        hub.requests.clear()
        assert contents(machine.download())["config.json"] == b"new"
        assert not hub.fetched(".safetensors")


class TestSecondRun:
    """What a run finds that another one left."""

    def test_second_run_fetches_nothing(self, hub: StandinHub, machine: Machine) -> None:
        """With all files in the cache, only the newest commit is asked for, and nothing is said."""
        hub.offer("org/name", DATA | {"model.safetensors": WEIGHTS})
        first = machine.download()
        hub.requests.clear()
        assert machine.download() == first
        about_models = [request.path for request in hub.requests if "org/name" in request.path]
        assert about_models == ["/api/models/org/name"]
        assert machine.notices == ""

    def test_cache_that_only_gives(self, hub: StandinHub, machine: Machine, tmp_path: Path) -> None:
        """A whole model serves although nothing can be noted in its cache, as in a shared one."""
        hub.offer("org/name", DATA | {"model.safetensors": WEIGHTS})
        first = machine.download()
        notes = tmp_path / "hf/hub/models--org--name/refs"
        shutil.rmtree(notes)
        notes.touch()
        assert machine.download() == first

    def test_killed_download_is_continued(self, hub: StandinHub, machine: Machine, partial: Path) -> None:
        """A run that is killed inside a file leaves what it has; the next one asks for the rest."""
        hub.offer("org/name", {"model.safetensors": WEIGHTS})
        hub.hold_after["model.safetensors"] = 200_000
        with machine.begin() as download:
            wait_until(lambda: partial.exists() and partial.stat().st_size)
            download.kill()
        have = partial.stat().st_size
        hub.requests.clear()
        assert contents(machine.download()) == {"model.safetensors": WEIGHTS}
        assert 0 < have <= 200_000
        assert [request.range for request in hub.fetched()] == [f"bytes={have}-"]

    def test_cut_connection_is_continued(self, hub: StandinHub, machine: Machine) -> None:
        """When the server cuts a connection, the same run asks for the rest, and says so."""
        hub.offer("org/name", {"model.safetensors": WEIGHTS})
        hub.cut_after["model.safetensors"] = 200_000
        assert contents(machine.download()) == {"model.safetensors": WEIGHTS}
        assert [request.range for request in hub.fetched()] == [None, "bytes=200000-"]
        assert "model.safetensors" in machine.notices
        assert "going on from 0.2 MB" in machine.notices

    def test_server_that_cannot_continue(self, hub: StandinHub, machine: Machine, partial: Path) -> None:
        """A server that answers with the whole file again does not lead to a longer one."""
        partial.write_bytes(WEIGHTS[:200_000])
        hub.offer("org/name", {"model.safetensors": WEIGHTS})
        hub.ignore_ranges = True
        assert contents(machine.download()) == {"model.safetensors": WEIGHTS}

    def test_damaged_bytes_are_noticed(self, hub: StandinHub, machine: Machine, partial: Path) -> None:
        """A file with the wrong hash is an error and thrown away; the next run gets it right."""
        partial.write_bytes(OTHER_WEIGHTS[:200_000])
        hub.offer("org/name", {"model.safetensors": WEIGHTS})
        assert "model.safetensors was damaged on its way" in machine.failure()
        assert contents(machine.download()) == {"model.safetensors": WEIGHTS}


class TestOffline:
    """Runs that may not touch the network."""

    @pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
    def test_offline_takes_the_cache(self, hub: StandinHub, machine: Machine, weights: str) -> None:
        """What was downloaded is found, without one request."""
        hub.offer("org/name", DATA | PYTHON | {weights: WEIGHTS})
        there = machine.download()
        hub.requests.clear()
        assert machine.download(offline=True) == there
        assert hub.requests == []

    def test_offline_finds_tags(self, hub: StandinHub, machine: Machine) -> None:
        """A tag that was downloaded is found by its name."""
        hub.offer("org/name", DATA, COMMIT, "v1.0")
        there = machine.download(revision="v1.0")
        assert machine.download(revision="v1.0", offline=True) == there

    def test_offline_without_the_model(self, machine: Machine) -> None:
        """What is not in the cache is an error that says where to get it."""
        message = machine.failure(offline=True)
        assert not missing_words(message, "org/name", "cache", "offline", "--model", "directory")

    @pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
    def test_offline_with_half_a_model(self, hub: StandinHub, machine: Machine, name: str) -> None:
        """A model of which one file is missing is not taken for whole."""
        hub.offer("org/name", DATA | {name: WEIGHTS})
        (machine.download() / name).unlink()
        assert "only in part" in machine.failure(offline=True)

    @pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
    def test_variables_of_the_client(self, hub: StandinHub, machine: Machine, variable: str) -> None:
        """The client's own switches mean the same as ours, with the model and without it."""
        hub.offer("org/name", DATA)
        there = machine.download()
        hub.requests.clear()
        machine.environment[variable] = "1"
        assert machine.download() == there
        assert "offline mode is on" in machine.failure("org/other")
        assert hub.requests == []

    def test_silent_hub_and_a_cache(self, hub: StandinHub, machine: Machine) -> None:
        """Where the hub does not answer, the copy in the cache serves, and a notice says so."""
        hub.offer("org/name", DATA)
        there = machine.download()
        machine.environment["HF_ENDPOINT"] = nowhere()
        assert machine.download() == there
        assert "org/name: the hub does not answer" in machine.notices
        assert "using the copy in the cache" in machine.notices

    def test_clear_no_and_a_cache(self, hub: StandinHub, machine: Machine) -> None:
        """Where the hub says no, that is an error, whatever the cache holds."""
        hub.offer("org/name", DATA)
        machine.download()
        hub.failures["/api/models/org/name"] = (404, {"X-Error-Code": "RepoNotFound"})
        assert machine.failure().startswith("org/name does not exist on the hub")


class TestFailures:
    """What a user reads when a download from Hugging Face's hub fails."""

    @pytest.mark.parametrize(
        ("endpoint", "reason"), [("refused", "Connection refused"), ("http://hub.invalid", "[Errno")]
    )
    def test_no_network(self, machine: Machine, endpoint: str, reason: str) -> None:
        """A refused connection or an unknown host names the mirror variable and the other hub."""
        machine.environment["HF_ENDPOINT"] = nowhere() if endpoint == "refused" else endpoint
        message = machine.failure()
        assert message.startswith("org/name could not be downloaded: ")
        assert reason in message
        assert "HF_ENDPOINT" in message
        assert "--hub modelscope" in message

    @pytest.mark.parametrize(
        ("answer", "expected"),
        [
            ((404, {"X-Error-Code": "RepoNotFound"}), "org/name does not exist on the hub, or is private"),
            ((401, {"X-Error-Code": "RepoNotFound"}), "org/name does not exist on the hub, or is private"),
            ((401, {"X-Error-Code": "GatedRepo"}), "org/name is given only to those who accepted its terms"),
            (
                (401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
                "org/name was refused",
            ),
            ((403, {}), "org/name was refused"),
            ((500, {}), "org/name could not be downloaded: Server error '500"),
            ((503, {}), "org/name could not be downloaded: Server error '503"),
        ],
    )
    def test_refusals(
        self, hub: StandinHub, machine: Machine, answer: tuple[int, dict[str, str]], expected: str
    ) -> None:
        """Each way in which the hub refuses has its own sentence."""
        hub.failures["/api/models/org/name"] = answer
        assert machine.failure().startswith(expected)

    def test_gate_in_front_of_the_files(self, hub: StandinHub, machine: Machine) -> None:
        """A gated model shows its list of files to everybody, and is refused at the first of them."""
        hub.offer("org/name", {"model.safetensors": WEIGHTS})
        hub.failures["/org/name/resolve/"] = (401, {"X-Error-Code": "GatedRepo"})
        assert "accept them on its page" in machine.failure()

    def test_unknown_revision(self, hub: StandinHub, machine: Machine) -> None:
        """A revision that is not there is named."""
        hub.offer("org/name", DATA)
        message = "org/name at revision v9 does not exist; see the model's page for its branches and tags"
        assert machine.failure(revision="v9") == message

    def test_name_that_no_hub_takes(self, machine: Machine) -> None:
        """A name that the client refuses is an error of the user's, not ours."""
        assert machine.failure("org/na--me").startswith("org/na--me is no id that the hub accepts: ")

    @pytest.mark.parametrize("page", [b"<html>Log in to the hotel", b"{}"])
    def test_endpoint_that_is_no_hub(self, hub: StandinHub, machine: Machine, page: bytes) -> None:
        """A page in place of the hub's answer is recognised, and the endpoint named."""
        hub.page = page
        message = machine.failure()
        assert f"what answers at {hub.url} is not a hub" in message

    def test_disk_that_is_too_small(self, hub: StandinHub, machine: Machine) -> None:
        """A model larger than the free space is refused before the first of its bytes is fetched."""
        hub.offer("org/name", {"model.safetensors": WEIGHTS})
        hub.sizes["model.safetensors"] = 10**18
        assert machine.failure().startswith("org/name needs 1000000000.0 GB, and ")
        assert not hub.fetched()

    @pytest.mark.skipif(
        not Path("/dev/full").exists(), reason="this system has no device that is always full"
    )
    def test_disk_that_fills_up(self, hub: StandinHub, machine: Machine, partial: Path) -> None:
        """A disk that fills up on the way is reported with the folder."""
        partial.symlink_to("/dev/full")
        hub.offer("org/name", {"model.safetensors": WEIGHTS})
        message = machine.failure()
        assert not missing_words(message, "org/name", "No space left on device")
        assert not missing_words(message, "HF_HOME", str(machine.home / "hf/hub"))

    def test_cache_that_cannot_be_made(self, hub: StandinHub, machine: Machine) -> None:
        """A cache folder below a file is reported with the variable that moves it."""
        (machine.home / "file").touch()
        machine.environment["HF_HOME"] = str(machine.home / "file" / "hf")
        hub.offer("org/name", DATA | {"model.safetensors": WEIGHTS})
        message = machine.failure()
        assert message.startswith("org/name could not be written to the cache: [Errno 20] Not a directory")
        assert "name another in HF_HOME" in message

    @pytest.mark.parametrize(
        ("module", "hub_name", "extra"),
        [("huggingface_hub", "huggingface", "hub"), ("modelscope_hub", "modelscope", "modelscope")],
    )
    def test_missing_client(
        self, monkeypatch: pytest.MonkeyPatch, module: str, hub_name: str, extra: str
    ) -> None:
        """Without the hub's client the error names the package to install."""
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(
            HubError, match=containing(module, "not installed", f'pip install "glm-core[{extra}]"')
        ):
            download("org/name", revision=None, offline=False, hub=hub_name)

    def test_broken_client(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A client that is there and lacks something is called broken, not missing."""
        monkeypatch.setitem(sys.modules, "huggingface_hub.errors", None)
        with pytest.raises(HubError, match="huggingface_hub is installed and broken"):
            download("org/name", revision=None, offline=False, hub="huggingface")


class TestCommandLine:
    """What the ``glm`` command makes of it."""

    @pytest.mark.parametrize("arguments", [(), ("--offline",), ("--revision", "v9")])
    def test_one_line_and_status_2(self, machine: Machine, arguments: tuple[str, ...]) -> None:
        """A model that cannot be downloaded is one line on standard error, and nothing else."""
        status, output, errors = machine.glm(
            "chat", "你好", "--model", "org/name", "--device", "cpu", *arguments
        )
        assert (status, output) == (2, "")
        assert errors.startswith("glm: org/name")
        assert errors.count("\n") == 1

    def test_progress_on_a_terminal(self, hub: StandinHub, machine: Machine) -> None:
        """On a terminal a bar shows how much of the model has arrived."""
        pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
        hub.offer("org/name", {"model.safetensors": WEIGHTS})
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 80))
        with machine.begin(stderr=theirs) as process:
            process.finish()
        os.close(theirs)
        shown = os.read(ours, 2**16).decode()
        os.close(ours)
        assert "org/name: " in shown
        assert "300k/300k" in shown
