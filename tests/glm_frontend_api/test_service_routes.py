"""``/health``, ``/ready``, ``/metrics`` and ``/openapi.json``."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from api_support import PATIENCE, ScriptedRuntime, Served, chat_body, events, serving, until
from glm_frontend_api import readiness
from glm_frontend_api.gate import label_route
from key_words import missing_words

from glm_core import ChatRequest, Message, ModelLoad, Sampling, Usage


def ask_ready(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """Have the probe ask something else of the scripted model."""
    question = ChatRequest((Message("user", command),), Sampling(max_new_tokens=1))
    monkeypatch.setattr(readiness, "_QUESTION", question)


def test_health_asks_no_model(served: Served, runtime: ScriptedRuntime) -> None:
    """The process is alive, whatever the model does."""
    assert served.http.get("/health").json() == {"status": "ok"}
    assert runtime.requests == []


def test_ready_makes_a_token_flow(served: Served, runtime: ScriptedRuntime) -> None:
    """Readiness is one generated token."""
    assert served.http.get("/ready").json() == {"status": "ready"}
    assert [request.sampling.max_new_tokens for request in runtime.requests] == [1]
    until(lambda: not runtime.open_streams)


def test_model_without_tokens_is_not_ready(runtime: ScriptedRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that hangs is a 503 after the time limit, and the probe frees its slot."""
    ask_ready(monkeypatch, "hang")
    with serving(runtime.model, ready_seconds=0.1) as served:
        answer = served.http.get("/ready")
        assert answer.status_code == 503
        assert answer.json() == {"status": "not ready: no token came within 0.1 seconds"}
        until(lambda: not runtime.open_streams)


def test_hanging_probes_do_not_pile_up(runtime: ScriptedRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a probe cannot even be closed no second one is started; when it comes back, one is."""
    ask_ready(monkeypatch, "hang hard")
    with serving(runtime.model, ready_seconds=0.05) as served:
        assert [served.http.get("/ready").status_code for _ in range(3)] == [503] * 3
        assert len(runtime.requests) == 1
        runtime.gate.set()
        until(lambda: served.http.get("/ready").status_code == 200)


def test_callers_share_one_probe(runtime: ScriptedRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many who ask at once make the model generate once."""
    ask_ready(monkeypatch, "pause word")
    with serving(runtime.model) as served, ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(httpx.get, f"{served.url}/ready", timeout=PATIENCE) for _ in range(8)]
        # all eight are waiting once eight requests were begun and none was finished
        until(lambda: len(served.server.server_state.tasks) == 8)
        runtime.gate.set()
        assert {answer.result().status_code for answer in answers} == {200}
    assert len(runtime.requests) == 1


def test_busy_model_that_moves_is_ready(runtime: ScriptedRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a full queue, tokens of others' answers show that the model works."""
    ask_ready(monkeypatch, "refuse busy")
    with serving(runtime.model, ready_seconds=0.1) as served:
        assert served.http.get("/ready").status_code == 503
        body = chat_body("forever", stream=True)
        with served.http.stream("POST", "/v1/chat/completions", json=body) as stream:
            pieces = events(stream)
            next(pieces)
            with ThreadPoolExecutor(1) as pool:
                reading = pool.submit(list, pieces)
                # a probe looks for tenths of a second only, in which a busy machine may make no token
                until(lambda: httpx.get(f"{served.url}/ready", timeout=PATIENCE).status_code == 200)
                served.server.drain()
                assert "server_stopping" in reading.result(PATIENCE)[-1]


def test_broken_model_is_not_ready_and_says_why(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the probe is the reason."""
    ask_ready(monkeypatch, "refuse closed")
    answer = served.http.get("/ready")
    assert answer.status_code == 503
    assert not missing_words(answer.json()["status"], "not ready", "the model was closed")


def test_metrics_count_answers(runtime: ScriptedRuntime) -> None:
    """Requests, tokens, times and errors are counted."""
    runtime.usage = Usage(3, 2, queue_seconds=0.5, time_to_first_token=0.25, decode_seconds=0.1)
    with serving(runtime.model) as served:
        served.chat("say hello")
        served.chat("say hello", model="unknown")
        served.chat("refuse busy")
        served.ask_original("say hello")
        assert served.metric('glm_http_requests_total{route="/v1/chat/completions",status="200"}') == 1
        assert served.metric('glm_http_requests_total{route="/v1/chat/completions",status="404"}') == 1
        assert served.metric('glm_errors_total{kind="model_not_found"}') == 1
        assert served.metric('glm_errors_total{kind="queue_full"}') == 1
        assert served.metric("glm_prompt_tokens_total") == 6
        assert served.metric("glm_completion_tokens_total") == 4
        assert served.metric("glm_queue_seconds_sum") == 1.0
        assert served.metric("glm_time_to_first_token_seconds_sum") == 0.5
        assert served.metric("glm_tokens_per_second_sum") == 20
        assert served.metric("process_resident_memory_bytes") > 0


def test_metrics_show_the_models_load(runtime: ScriptedRuntime) -> None:
    """What the model says of itself is shown; a model that says nothing shows nothing."""
    with serving(runtime.model) as served:
        assert "glm_slots" not in served.http.get("/metrics").text
        runtime.load = ModelLoad(8, 3, 2, 64, 100, 4096, 2**20)
        names = ["slots", "slots_active", "queue_waiting", "queue_capacity"]
        names += ["kv_tokens", "kv_capacity_tokens", "kv_bytes"]
        assert [served.metric(f"glm_{name}") for name in names] == [8, 3, 2, 64, 100, 4096, 2**20]


def test_running_answers_are_counted(served: Served, runtime: ScriptedRuntime) -> None:
    """The gauge rises with a running answer and falls after it."""
    thread = threading.Thread(target=served.chat, args=("pause word",))
    thread.start()
    until(lambda: served.metric("glm_answers") == 1)
    runtime.gate.set()
    thread.join()
    until(lambda: served.metric("glm_answers") == 0)


def test_invented_paths_make_no_new_metrics() -> None:
    """Labels come from a fixed list, so that clients cannot grow the server's memory."""
    paths = ("/x", "/v1/other", "//", "/v1/models/a", "/v1/models/b", "/v1/adapters/a", "/v1/adapters/b")
    assert {label_route(path) for path in paths} == {
        "other",
        "/v1/models/{model_id}",
        "/v1/adapters/{name}",
    }


def test_document_lists_what_there_is(runtime: ScriptedRuntime) -> None:
    """The OpenAPI document has the routes, never FastAPI's 422, and the key where one is needed."""
    with serving(runtime.model, api_key="k") as served:
        document = served.http.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/",
        "/health",
        "/ready",
        "/metrics",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/models",
        "/v1/models/{model_id}",
        "/v1/adapters",
        "/v1/adapters/{name}",
    }
    operations = {path: next(iter(methods.values())) for path, methods in document["paths"].items()}
    assert all("422" not in operation["responses"] for operation in operations.values())
    assert [path for path, operation in operations.items() if "security" not in operation] == ["/health"]


def test_interactive_pages_that_need_another_site_are_off(served: Served) -> None:
    """/docs and /redoc, which load scripts from elsewhere, are not served."""
    assert [served.http.get(path).status_code for path in ("/docs", "/redoc")] == [404, 404]


def test_every_response_has_an_id(served: Served) -> None:
    """Answers and refusals carry an id of their own."""
    ids = [served.http.get(path).headers["x-request-id"] for path in ("/health", "/nothing", "/v1/models")]
    assert len(set(ids)) == 3


def test_metrics_forget_adapters_that_went(runtime: ScriptedRuntime) -> None:
    """Adapters that come, answer and go leave no series behind, whoever removed them."""
    with serving(runtime.model) as served:
        for number in range(20):
            runtime.adapters = (f"a{number}",)
            assert served.chat("say hello", model=f"a{number}").is_success
        assert 'adapter="a19"' in served.http.get("/metrics").text
        assert served.metric("glm_adapter_answers_total") == 1
        runtime.adapters = ()
        assert 'adapter="a' not in served.http.get("/metrics").text
        assert served.metric("glm_completion_tokens_total") == 40


@pytest.mark.parametrize(
    "path", ["/health", "/ready", "/metrics", "/openapi.json", "/v1/models", "/v1/adapters"]
)
def test_head_works_wherever_get_does(served: Served, path: str) -> None:
    """The same status and headers without a body, for whoever only watches."""
    answer = served.http.head(path)
    assert answer.status_code == 200
    assert answer.content == b""
    assert answer.headers["content-type"] == served.http.get(path).headers["content-type"]
    assert int(answer.headers["content-length"]) > 0


def test_head_of_health_takes_no_key(runtime: ScriptedRuntime) -> None:
    """As with GET, and for that route only."""
    with serving(runtime.model, api_key="k") as served:
        assert httpx.head(f"{served.url}/health", timeout=PATIENCE).status_code == 200
        assert httpx.head(f"{served.url}/v1/models", timeout=PATIENCE).status_code == 401


@pytest.mark.parametrize(
    "path", ["/health/", "//health", "/v1//models/", "/v1/models/scripted/", "//v1/models//scripted"]
)
def test_slashes_too_many_reach_the_route(served: Served, path: str) -> None:
    """A base URL that ends with a slash is no reason for a 404."""
    assert served.http.get(served.url + path).status_code == 200


def test_slashes_too_many_reach_routes_with_bodies(served: Served) -> None:
    """The same for posts, and the metrics know the route."""
    for path in ("//v1/chat/completions", "/v1/chat/completions/"):
        assert served.http.post(served.url + path, json=chat_body("say hello")).is_success
    assert served.metric('glm_http_requests_total{route="/v1/chat/completions",status="200"}') == 2
