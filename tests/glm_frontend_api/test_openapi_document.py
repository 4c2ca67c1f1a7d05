"""Requests made from the OpenAPI document itself: the server does what its document says."""

from __future__ import annotations

import hypothesis
import pytest
import schemathesis
from api_support import Served
from schemathesis.config import SchemathesisConfig

# A request can fit the schema and still be refused, because a schema cannot say that the last
# message is the user's or that a prompt must fit: such a refusal is a 400 or 404, never a 500.
CONFIG = SchemathesisConfig.from_dict(
    {"checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", "400", "404"]}}}
)
OPERATIONS = (
    *(("POST", path) for path in ("/", "/v1/chat/completions", "/v1/completions")),
    *(("GET", path) for path in ("/v1/models", "/v1/models/{model_id}", "/health", "/ready", "/metrics")),
)


def test_list_of_operations_is_complete(demo: Served) -> None:
    """The test below goes through every operation of the document."""
    paths = demo.http.get("/openapi.json").json()["paths"]
    assert {(method.upper(), path) for path, methods in paths.items() for method in methods} == set(
        OPERATIONS
    )


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_server_keeps_to_its_document(demo: Served, method: str, path: str) -> None:
    """Statuses, headers, types and shapes are as documented, for good and for bad requests."""
    schema = schemathesis.openapi.from_url(f"{demo.url}/openapi.json", config=CONFIG)
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
    def run(case: schemathesis.Case) -> None:
        case.call_and_validate(timeout=60)

    run()
