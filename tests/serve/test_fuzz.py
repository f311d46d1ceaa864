"""Requests made from the API's own description, right and wrong: no 5xx, and every error in OpenAI's shape."""

import contextlib
import json

import httpx
import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from hypothesis import strategies as st

from didact.feedback.store import Store
from didact.serve.ground import Ground
from tests.serve.running import running, served
from tests.serve.test_ground import Found, Shelf

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models", "/v1/models/{id}", "/health")


@pytest.fixture(scope="module")
def fuzzed(base, tmp_path_factory):
    with (
        Store.open(str(tmp_path_factory.mktemp("store") / "f.sqlite")) as store,
        running(served(base, longest=64), store=store, ground=Ground(Shelf(Found("The red thing.")))) as up,
    ):
        yield up


def fair(got):
    """What may be answered to anything."""
    assert got.status_code < 500, got.text
    if got.status_code >= 400:
        error = got.json()["error"]
        assert {*error} == {"message", "type", "param", "code"}
        assert isinstance(error["message"], str)
        assert error["message"]


def fuzz(up, count):
    schema = schemathesis.openapi.from_dict(httpx.get(f"{up.url}/openapi.json").json())
    calm = hypothesis.settings(max_examples=count, deadline=None, suppress_health_check=[*HealthCheck], database=None)
    for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
        for operation in schema.get_all_operations():
            cases = operation.ok().as_strategy(generation_mode=mode)
            check = calm(hypothesis.given(cases)(lambda case: fair(case.call(base_url=up.url, timeout=30))))
            with contextlib.suppress(hypothesis.errors.Unsatisfiable):  # what takes nothing cannot be asked wrongly
                check()
    assert httpx.get(f"{up.url}/health").status_code == 200


def test_fuzzed_a_little(fuzzed):
    fuzz(fuzzed, 4)


@pytest.mark.slow
def test_fuzzed_much(fuzzed):
    fuzz(fuzzed, 60)


def test_every_path_is_described(fuzzed):
    described = httpx.get(f"{fuzzed.url}/openapi.json").json()["paths"]
    assert {*PATHS} <= {*described}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("messages", "n", "seed", "stop", "temperature", "logit_bias", "response_format", "tools", "didact", "prompt")


@hypothesis.settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@hypothesis.given(st.sampled_from(FIELDS), JSON, st.sampled_from(PATHS[:3]))
def test_any_value_in_any_field(fuzzed, field, value, path):
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2} if "chat" in path else {"prompt": "x"}
    body = {"input": "x"} if "embed" in path else body
    content = json.dumps({**body, field: value}).encode()
    fair(httpx.post(fuzzed.url + path, content=content, headers={"content-type": "application/json"}))
