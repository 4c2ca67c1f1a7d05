"""``/v1/adapters``: who may change adapters, from where, and what clients see of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_support import ScriptedRuntime, Served, events, serving, until
from glm_frontend_api import adapter_folder
from glm_frontend_api.app import asgi_app
from glm_testing import make_host
from patience import PATIENCE_SECONDS
from starlette.testclient import TestClient
from tiny_adapters import write_adapter

import glm_core
from glm_core import ChatModel, ModelInfo, Sampling

KEY = "a-key"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapters folder with one directory in it, and one beside it."""
    (tmp_path / "adapters" / "ads").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "adapters"


@pytest.fixture
def locked(runtime: ScriptedRuntime, folder: Path) -> Iterator[Served]:
    """A server with a key and an adapters folder."""
    with serving(runtime.model, api_key=KEY, adapters_dir=folder) as served:
        yield served


def add(served: Served, name: str = "ads", path: str = "ads") -> httpx.Response:
    """Have an adapter loaded."""
    return served.http.post("/v1/adapters", json={"name": name, "path": path})


def error_of(answer: httpx.Response) -> tuple[int, str, str | None]:
    """Status, code and field of a refusal."""
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


# --- adding and removing -------------------------------------------------------------------------


def test_adapter_comes_and_goes(locked: Served, runtime: ScriptedRuntime, folder: Path) -> None:
    """Once added it is listed and answers; once removed it is OpenAI's 404."""
    added = add(locked)
    assert added.status_code == 201
    assert added.json() == {**locked.http.get("/v1/models/scripted").json(), "id": "scripted:ads"} | {
        "parent": "scripted"
    }
    assert runtime.directories == {"ads": folder.resolve() / "ads"}
    assert [card["id"] for card in locked.http.get("/v1/adapters").json()["data"]] == ["scripted:ads"]
    assert locked.http.get("/v1/models").json()["data"][1] == added.json()
    assert locked.chat("say hello", model="scripted:ads").json()["model"] == "scripted:ads"
    removed = locked.http.delete("/v1/adapters/ads")
    assert removed.status_code == 200
    assert removed.json() == {"id": "scripted:ads", "object": "model", "deleted": True}
    assert locked.http.get("/v1/adapters").json() == {"object": "list", "data": []}
    assert error_of(locked.chat("say hello", model="scripted:ads")) == (404, "model_not_found", "model")


def test_adapters_name_the_model_that_they_belong_to(runtime: ScriptedRuntime) -> None:
    """In /v1/models the base has no parent, and each adapter the base."""
    runtime.adapters = ("ads", "poet")
    with serving(runtime.model) as served:
        cards = served.http.get("/v1/models").json()["data"]
    assert [card["parent"] for card in cards] == [None, "scripted", "scripted"]


def test_bare_name_of_an_adapter_chooses_it(runtime: ScriptedRuntime) -> None:
    """NAME means MODEL:NAME, unless a model or the alias default is called so."""
    runtime.adapters = ("ads", "scripted", "default")
    with serving(runtime.model) as served:
        answers = [
            served.chat("say x", model=name).json()["model"] for name in ("ads", "scripted", "default")
        ]
    assert answers == ["scripted:ads", "scripted", "scripted"]
    assert [request.adapter for request in runtime.requests] == ["ads", None, None]


def test_default_stays_what_it_was_at_the_start(locked: Served, folder: Path) -> None:
    """An adapter that comes later does not take over the requests of others."""
    add(locked)
    assert locked.chat("say x").json()["model"] == "scripted"


def test_default_leaves_an_adapter_that_is_removed(runtime: ScriptedRuntime, folder: Path) -> None:
    """The only adapter of the start is the default until it goes, whatever else comes."""
    runtime.adapters = ("poet",)
    with serving(runtime.model, api_key=KEY, adapters_dir=folder) as served:
        add(served)
        named = [served.chat("say x").json()["model"]]
        served.http.delete("/v1/adapters/poet")
        named.append(served.chat("say x").json()["model"])
    assert named == ["scripted:poet", "scripted"]


def test_request_that_loses_its_adapter_on_the_way_is_a_404(locked: Served, runtime: ScriptedRuntime) -> None:
    """Removed between the look-up and the model, it is told as if it had never been there."""
    for stream in (False, True):
        runtime.adapters = ("ads",)
        answer = locked.chat("remove ads", model="scripted:ads", stream=stream)
        assert error_of(answer) == (404, "model_not_found", "model")


def test_answers_go_on_while_an_adapter_is_loaded(
    locked: Served, runtime: ScriptedRuntime, folder: Path
) -> None:
    """However long it takes; a second one waits for its turn."""
    (folder / "slow").mkdir()
    answers: list[httpx.Response] = []
    threads = [
        threading.Thread(target=lambda name=name, path=path: answers.append(add(locked, name, path)))
        for name, path in (("slow", "slow"), ("ads", "ads"))
    ]
    threads[0].start()
    until(lambda: "slow" in runtime.directories)
    threads[1].start()
    assert locked.chat("say hello").is_success
    assert locked.http.get("/v1/adapters").json()["data"] == []
    assert "ads" not in runtime.directories
    runtime.gate.set()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [201, 201]
    assert runtime.adapters == ("slow", "ads")


def test_answers_are_counted_by_adapter(locked: Served) -> None:
    """/metrics tells how many answers each adapter gave, and how many adapters there are."""
    add(locked)
    for model in ("scripted", "ads", "ads"):
        locked.chat("say x", model=model)
    text = locked.http.get("/metrics").text
    assert 'glm_adapter_answers_total{adapter="ads"} 2.0' in text
    assert 'glm_adapter_answers_total{adapter=""} 1.0' in text
    assert "glm_adapters 1.0" in text
    locked.http.delete("/v1/adapters/ads")
    text = locked.http.get("/metrics").text
    assert 'glm_http_requests_total{route="/v1/adapters/{name}",status="200"} 1.0' in text


# --- who may -------------------------------------------------------------------------------------


def test_changes_need_a_key_on_the_server(runtime: ScriptedRuntime) -> None:
    """Without a key nobody may, not even on loopback, nor where --insecure opens all the rest."""
    runtime.adapters = ("poet",)
    for config in ({}, {"insecure": True}):
        with serving(runtime.model, **config) as served:
            for answer in (add(served), served.http.delete("/v1/adapters/poet")):
                assert error_of(answer) == (403, "api_key_required", None)
                assert "GLM_API_KEY" in answer.json()["error"]["message"]
            assert served.http.get("/v1/adapters").is_success
    assert runtime.adapters == ("poet",)
    assert runtime.directories == {}


def test_changes_need_the_key_of_the_server(locked: Served, runtime: ScriptedRuntime) -> None:
    """A wrong key, or none, is a 401 before anything is looked at."""
    for headers in ({}, {"authorization": "Bearer wrong"}):
        with httpx.Client(
            base_url=locked.url, headers=headers, trust_env=False, timeout=PATIENCE_SECONDS
        ) as stranger:
            for method, path in (("POST", ""), ("DELETE", "/poet"), ("GET", "")):
                answer = stranger.request(method, f"/v1/adapters{path}")
                assert error_of(answer) == (401, "invalid_api_key", None)
    assert runtime.directories == {}


def test_adding_needs_a_folder_to_add_from(runtime: ScriptedRuntime, folder: Path) -> None:
    """Without --adapters-dir nothing is loaded from disk; removing is possible all the same."""
    runtime.adapters = ("poet",)
    with serving(runtime.model, api_key=KEY) as served:
        answer = add(served, path=str(folder / "ads"))
        assert error_of(answer) == (403, "adapters_not_allowed", None)
        assert "--adapters-dir" in answer.json()["error"]["message"]
        assert served.http.delete("/v1/adapters/poet").is_success
    assert runtime.directories == {}


# --- from where ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "../elsewhere",
        "ads/../../elsewhere",
        "{folder}/../elsewhere",
        "/etc",
        "/",
        "..",
        ".",
        "ads/..",
        "{folder}",
        "{folder}-not-there",
        "link-out",
        "link-out/deeper",
        "/nowhere/at/all",
        "../adapters",
    ],
)
def test_paths_outside_the_folder_are_refused(
    locked: Served, runtime: ScriptedRuntime, folder: Path, path: str
) -> None:
    """Whether it exists or not, and whatever leads there; the folder itself is no adapter either."""
    (folder / "link-out").symlink_to(folder.parent / "elsewhere")
    answer = add(locked, path=path.format(folder=folder))
    assert error_of(answer) == (403, "path_not_allowed", "path")
    assert runtime.directories == {}


@pytest.mark.parametrize(
    "place",
    [
        "model.safetensors",
        "config.json",
        "checkpoint-9/model.safetensors",
        "checkpoint-9/a/b/c.json",
        "checkpoint-9",
        "by-a-link/model.safetensors",
    ],
)
@pytest.mark.parametrize("target", ["file", "directory", "nothing"])
def test_links_to_the_outside_are_refused_at_any_depth(
    locked: Served, runtime: ScriptedRuntime, folder: Path, place: str, target: str
) -> None:
    """A directory of the folder must not hold what is elsewhere, also below it and behind links inside."""
    (folder.parent / "elsewhere" / "file").write_text("x")
    (folder / "other").mkdir()
    (folder / "ads" / "by-a-link").symlink_to(folder / "other")
    link = folder / "ads" / place
    link.parent.mkdir(parents=True, exist_ok=True)
    ends = {"file": "elsewhere/file", "directory": "elsewhere", "nothing": "elsewhere/nothing"}
    link.symlink_to(folder.parent / ends[target])
    assert error_of(add(locked)) == (403, "path_not_allowed", "path")
    assert runtime.directories == {}


def test_rings_of_links_inside_the_folder_are_no_obstacle(locked: Served, folder: Path) -> None:
    """Each directory is looked at once, whatever links lead to it."""
    (folder / "ads" / "again").symlink_to(folder / "ads")
    (folder / "ads" / "up").symlink_to(folder)
    assert add(locked).status_code == 201


def test_directory_with_too_many_files_is_refused(
    locked: Served, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking for links in a million files would take minutes."""
    monkeypatch.setattr(adapter_folder, "MAX_ENTRIES", 3)
    for number in range(4):
        (folder / "ads" / f"{number}").touch()
    answer = add(locked)
    assert error_of(answer) == (400, "adapter_refused", "path")
    assert "more than 3 files" in answer.json()["error"]["message"]


def test_model_is_told_the_folder_and_its_refusal_is_a_403(
    locked: Served, runtime: ScriptedRuntime, folder: Path
) -> None:
    """What a link becomes after the server's own look is seen by who opens the file."""
    (folder / "outside").mkdir()
    assert error_of(add(locked, path="outside")) == (403, "path_not_allowed", "path")
    assert runtime.folders == {"ads": folder}


@pytest.mark.parametrize("path", ["ads", "./ads/", "{folder}/ads", "link-in", "ads/../ads", "run/ads"])
def test_paths_inside_the_folder_are_loaded(
    locked: Served, runtime: ScriptedRuntime, folder: Path, path: str
) -> None:
    """Relative or absolute, also through links that stay inside; the runtime gets the real place."""
    (folder / "link-in").symlink_to(folder / "ads")
    (folder / "run").mkdir()
    (folder / "run" / "ads").mkdir()
    assert add(locked, path=path.format(folder=folder)).status_code == 201
    assert runtime.directories["ads"] == folder.resolve() / ("run/ads" if path == "run/ads" else "ads")


@pytest.mark.parametrize("path", ["none", "file", "loop", "x" * 5000, "ads/none", "~", "$HOME"])
def test_paths_that_are_no_directory_are_refused(locked: Served, folder: Path, path: str) -> None:
    """One sentence with the path, and nothing about where on the machine the folder is."""
    (folder / "file").write_text("")
    (folder / "loop").symlink_to(folder / "loop")
    answer = add(locked, path=path)
    assert error_of(answer) == (400, "adapter_refused", "path")
    assert str(folder) not in answer.text


# --- refusals ------------------------------------------------------------------------------------


def test_taken_name_is_a_conflict(locked: Served, runtime: ScriptedRuntime) -> None:
    """Nothing is replaced; the message says what would remove it."""
    add(locked)
    answer = add(locked)
    assert error_of(answer) == (409, "adapter_exists", "name")
    assert "DELETE /v1/adapters/ads" in answer.json()["error"]["message"]
    assert runtime.adapters == ("ads",)


@pytest.mark.parametrize("name", ["x:y", "a/b", "../x", "x" * 65, " "])
def test_impossible_names_are_refused(locked: Served, runtime: ScriptedRuntime, name: str) -> None:
    """A name must be able to stand in MODEL:NAME."""
    answer = add(locked, name)
    assert error_of(answer) == (400, "adapter_refused", None)
    assert "choose letters, digits" in answer.json()["error"]["message"]
    assert runtime.adapters == ()


def test_damaged_adapter_says_what_is_wrong_but_not_where(locked: Served, folder: Path) -> None:
    """The client has the key and is told; the place of the folder stays the server's own."""
    (folder / "damaged").mkdir()
    answer = add(locked, path="damaged")
    assert error_of(answer) == (400, "adapter_refused", None)
    message = answer.json()["error"]["message"]
    assert message == f"damaged{os.sep}model.safetensors is damaged; copy it again"


@pytest.mark.parametrize(
    ("path", "status", "code"), [("big", 503, "out_of_memory"), ("broken", 500, "model_failed")]
)
def test_failures_of_the_model_are_told_as_elsewhere(
    locked: Served, folder: Path, path: str, status: int, code: str
) -> None:
    """No memory is a 503; a bug is a 500 without its details."""
    (folder / path).mkdir()
    answer = add(locked, path=path)
    assert error_of(answer)[:2] == (status, code)
    assert "secret" not in answer.text


def test_unknown_adapter_cannot_be_removed(locked: Served) -> None:
    """404 with the names that there are."""
    add(locked)
    answer = locked.http.delete("/v1/adapters/poet")
    assert error_of(answer) == (404, "adapter_not_found", "name")
    assert answer.json()["error"]["message"].endswith("there are: ads")


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"name": "ads"}, "missing_field", "path"),
        ({"name": "ads", "path": 5}, None, "path"),
        ({"name": "", "path": "ads"}, None, "name"),
        ({"name": "ads", "path": "ads", "force": True}, "unknown_field", "force"),
        ([], None, None),
    ],
)
def test_wrong_bodies_are_refused(locked: Served, body: Any, code: str | None, param: str | None) -> None:
    """As on every other route: the field is named."""
    answer = locked.http.post("/v1/adapters", json=body)
    assert error_of(answer) == (400, code, param)


def test_model_that_cannot_change_its_adapters_says_so(folder: Path) -> None:
    """A runtime need not be able to; the message says what works instead."""

    class Fixed:
        info = ModelInfo("fixed", "fixed", 0, 16, Sampling(), ("poet",))

        def close(self) -> None:
            """Nothing to give back."""

    with serving(ChatModel(make_host(), "fixed", Fixed()), api_key=KEY, adapters_dir=folder) as served:
        for answer in (add(served), served.http.delete("/v1/adapters/poet")):
            assert error_of(answer) == (400, "adapter_refused", None)
            assert "start again with --adapter NAME=DIR" in answer.json()["error"]["message"]


# --- in other surroundings -----------------------------------------------------------------------


def test_api_beside_a_page_takes_the_folder_as_well(runtime: ScriptedRuntime, folder: Path) -> None:
    """What `asgi_app` makes for others has the same routes and the same limits."""
    app = asgi_app(runtime.model, api_key=KEY, adapters_dir=str(folder))
    with TestClient(app, headers={"authorization": f"Bearer {KEY}"}) as client:
        assert client.post("/v1/adapters", json={"name": "ads", "path": "ads"}).status_code == 201
        assert client.post("/v1/adapters", json={"name": "out", "path": "../elsewhere"}).status_code == 403
    assert runtime.adapters == ("ads",)


def test_real_adapter_is_loaded_chosen_and_removed(tmp_path: Path) -> None:
    """On the demo model: it changes the answer, streams keep it to their end, and then it is gone."""
    write_adapter(tmp_path / "tuned", glm_core.resolve_model("demo"), pre_seq_len=8)
    with glm_core.load("demo") as model, serving(model, api_key=KEY, adapters_dir=tmp_path) as served:
        fields = {"temperature": 0, "max_tokens": 24}
        plain = served.chat("hello", **fields).json()["choices"][0]["message"]["content"]
        assert add(served, "tuned", "tuned").status_code == 201
        tuned = served.chat("hello", model="demo:tuned", **fields).json()["choices"][0]["message"]["content"]
        assert tuned != plain
        body = {
            "model": "tuned",
            "messages": [{"role": "user", "content": "hello"}],
            "stream": True,
            **fields,
        }
        with served.http.stream("POST", "/v1/chat/completions", json=body) as stream:
            lines = events(stream)
            first = next(lines)
            assert served.http.delete("/v1/adapters/tuned").is_success
            rest = list(lines)
        assert first
        assert rest[-1] == "[DONE]"
        assert served.chat("hello", **fields).json()["choices"][0]["message"]["content"] == plain
        assert served.chat("hello", model="demo:tuned").status_code == 404


def test_strangers_files_are_refusals_and_the_server_goes_on(tmp_path: Path) -> None:
    """On the demo model: damaged and foreign adapters are 400, what leads out is 403, nothing is a 500."""
    folder, demo = tmp_path / "adapters", glm_core.resolve_model("demo")
    folder.mkdir()
    write_adapter(tmp_path / "outside", demo)

    def break_link(directory: Path) -> None:
        (directory / "model.safetensors").unlink()
        (directory / "checkpoint-9").mkdir()
        (directory / "checkpoint-9" / "model.safetensors").symlink_to(
            tmp_path / "outside" / "model.safetensors"
        )

    breaks: dict[str, Any] = {
        "no-object": lambda directory: (directory / "glm_adapter.json").write_text("[" * 100_000),
        "wrong-key": lambda directory: (directory / "glm_adapter.json").write_text(
            '{"format": "glm-adapter", "format_version": 1, "family": 5}'
        ),
        "cut-off": lambda directory: (directory / "model.safetensors").write_bytes(b"\xff" * 100),
        "pipe": lambda directory: os.mkfifo(directory / "glm_adapter.json"),
        "peft": lambda directory: (
            (directory / "model.safetensors").rename(directory / "adapter_model.bin"),
            (directory / "adapter_config.json").write_text('{"peft_type": ["LORA"]}'),
        ),
        "link": break_link,
    }
    found = {}
    with glm_core.load("demo") as model, serving(model, api_key=KEY, adapters_dir=folder) as served:
        for name, damage in breaks.items():
            damage(write_adapter(folder / name, demo))
            found[name] = error_of(add(served, name, name))[:2]
        assert add(served, "good", str(write_adapter(folder / "good", demo))).status_code == 201
    assert found == {**dict.fromkeys(breaks, (400, "adapter_refused")), "link": (403, "path_not_allowed")}
