"""The API keeps what its OpenAPI document promises, for requests that a machine makes up."""

# ruff: noqa: F401, F811  (fixtures are imported by name)

import warnings

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from shopfront import client, folder, pipeline, serving, shared, train, trained

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    schemathesis = pytest.importorskip("schemathesis")
    from schemathesis.specs.openapi.checks import positive_data_acceptance

N_EXAMPLES = 12
PATHS = {
    "/v1/users/{user_id}/recommendations",
    "/v1/sessions/recommendations",
    "/v1/items/{item_id}/similar",
    "/v1/popular",
    "/v1/events",
    "/health/live",
    "/health/ready",
    "/metrics",
}


def test_the_document_names_every_route_and_every_struct(shared):
    document = shared.get("/openapi.json").json()
    assert set(document["paths"]) == PATHS
    text = str(document)
    named = set(document["components"]["schemas"])
    assert named >= {"Answer", "Event", "EventBatch", "Receipt", "Session", "Neighbours", "Problem"}
    assert "HTTPValidationError" not in text
    for part in text.split("#/components/schemas/")[1:]:
        assert part.split("'")[0] in named
    for path in document["paths"].values():
        for operation in path.values():
            assert operation["summary"]
            assert "200" in operation["responses"]


@pytest.mark.parametrize("path", sorted(PATHS))
def test_made_up_requests_get_documented_answers(shared, path):
    schema = schemathesis.openapi.from_url(str(shared.base_url) + "/openapi.json")
    operations = [result.ok() for result in schema.include(path=path).get_all_operations()]
    assert len(operations) == 1

    @settings(
        max_examples=N_EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operations[0].as_strategy())
    def check(case):
        # JSON Schema takes 12.0 for an integer and cannot say where k ends; both get a 422 that says so
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    check()
