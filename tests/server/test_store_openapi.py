"""What OpenAPI says of the store, and whether the store keeps to it."""

from __future__ import annotations

from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from store_harness import running_store, served_store


def test_every_answer_and_every_error_is_described(tmp_path: Path) -> None:
    with running_store(tmp_path) as store:
        schema = store.client.get("/openapi.json").json()
    operations = {
        (method.upper(), path): operation
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    }
    for (method, path), operation in operations.items():
        assert operation.get("summary") or operation.get("description"), (method, path)
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                assert "application/problem+json" in response["content"], (method, path, status)
    create = operations["POST", "/compute/jobs/{task_type}"]
    assert {
        "200", "201", "400", "401", "403", "404", "409", "413", "415", "422", "429"
    } <= create["responses"].keys()  # fmt: skip
    for change in ("cancel", "retry"):
        responses = operations["POST", f"/compute/jobs/{{job_id}}/{change}"]["responses"]
        assert {"202", "401", "403", "404", "409", "422"} <= responses.keys()
    assert {"200", "201", "422"} <= operations["POST", "/entities"]["responses"].keys()
    assert {"200", "206", "304", "400", "404", "416"} <= operations[
        "GET", "/entities/{entity_id}/media"
    ]["responses"].keys()
    assert len({operation["operationId"] for operation in operations.values()}) == len(operations)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default")  # schemathesis' own
def test_whatever_is_sent_the_answers_are_those_described(tmp_path: Path) -> None:
    import schemathesis
    from hypothesis import HealthCheck, given, settings
    from hypothesis.errors import Unsatisfiable
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        ignored_auth,
        response_headers_conformance,
        response_schema_conformance,
        status_code_conformance,
        unsupported_method,
    )

    checks = [
        not_a_server_error,
        status_code_conformance,
        content_type_conformance,
        response_headers_conformance,
        response_schema_conformance,
        unsupported_method,
        ignored_auth,
    ]
    with served_store(tmp_path) as store:
        store.upload(b"some bytes", "a.txt")
        store.add_job()
        schema = schemathesis.openapi.from_url(f"{store.client.base_url}/openapi.json")
        operations = [result.ok() for result in schema.get_all_operations()]
        for operation, mode in product(operations, GenerationMode):
            if operation.path == "/events":
                continue  # it does not end

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(
                max_examples=40,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            def check(case: Any) -> None:
                case.call_and_validate(headers=store.admin, checks=checks)

            with suppress(Unsatisfiable):  # nothing can be wrong where nothing is given
                check()
