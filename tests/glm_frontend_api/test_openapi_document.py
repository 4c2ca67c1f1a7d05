"""Requests made from the OpenAPI document itself: the server does what its document says."""

from __future__ import annotations

import hypothesis
import pytest
import schemathesis
from api_support import Served
from schemathesis.config import SchemathesisConfig

# A request can fit the schema and still be refused, because a schema cannot say that the last
# message is the user's, that a prompt must fit, or which directories there are: such a refusal is a
# 400, 403, 404 or 409, never a 500.
CHECKS = {
    "checks": {
        "positive_data_acceptance": {"expected-statuses": ["2xx", "400", "403", "404", "409"]},
        "ignored_auth": {"enabled": False},  # would send the right key as well; test_security does it
    }
}
OPERATIONS = (
    *(("POST", path) for path in ("/", "/v1/chat/completions", "/v1/completions")),
    *(("GET", path) for path in ("/v1/models", "/v1/models/{model_id}", "/health", "/ready", "/metrics")),
    *(("GET", "/v1/adapters"), ("POST", "/v1/adapters"), ("DELETE", "/v1/adapters/{name}")),
)
ADAPTER_OPERATIONS = [(method, path) for method, path in OPERATIONS if path.startswith("/v1/adapters")]


def test_list_of_operations_is_complete(demo: Served) -> None:
    """The test below goes through every operation of the document."""
    paths = demo.http.get("/openapi.json").json()["paths"]
    assert {(method.upper(), path) for path, methods in paths.items() for method in methods} == set(
        OPERATIONS
    )


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_server_keeps_to_its_document(demo: Served, method: str, path: str) -> None:
    """Statuses, headers, types and shapes are as documented, for good and for bad requests."""
    keeps_to_its_document(demo, method, path)


@pytest.mark.parametrize(("method", "path"), ADAPTER_OPERATIONS)
def test_server_with_a_key_keeps_to_its_document(keyed: Served, method: str, path: str) -> None:
    """The same where adapters may be changed, which takes the key."""
    keeps_to_its_document(keyed, method, path)


def keeps_to_its_document(served: Served, method: str, path: str) -> None:
    """Send what the document allows and what it forbids."""
    headers = {name: value for name, value in served.http.headers.items() if name == "authorization"}
    config = SchemathesisConfig.from_dict(CHECKS)
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json", config=config, headers=headers)
    operation = schema[path][method]

    @hypothesis.settings(
        max_examples=40,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(
        case=operation.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE)
        | operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)
    )
    def run(case: schemathesis.Case) -> None:  # type: ignore[type-arg]
        case.call_and_validate(timeout=60, headers=headers)

    run()
