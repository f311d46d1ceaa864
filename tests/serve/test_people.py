"""Feedback over HTTP: what is answered is kept, what is wrong is said in OpenAI's shape, nothing is a 5xx."""

import json

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from didact.feedback.store import Store
from didact.serve import errors
from didact.serve.people import router

PROMPT = [{"role": "user", "content": "Why?"}]
ROUND = {"prompt": PROMPT, "candidates": [{"text": "a", "model": "A"}, {"text": "b", "model": "B"}], "shown": [1, 0]}


@pytest.fixture
def store(tmp_path):
    with Store.open(str(tmp_path / "feedback.sqlite")) as store:
        yield store


@pytest.fixture
def client(store):
    app = FastAPI()
    errors.install(app)
    app.include_router(router(store))
    return TestClient(app, raise_server_exceptions=False)


def post(client, path, body, status=200, **headers):
    response = client.post(path, json=body, headers=headers)
    assert response.status_code == status, response.text
    return response.json()


def asked(client, **fields):
    return post(client, "/feedback/exchanges", {**ROUND, **fields})["id"]


def thumb(exchange, annotator="ann", up=True, **fields):
    return {"kind": "thumb", "exchange": exchange, "annotator": annotator, "up": up, **fields}


def test_what_is_answered_is_kept(client, store):
    made = post(client, "/feedback/exchanges", {**ROUND, "page": "1", "conversation": "c"})
    judged = [
        post(client, "/feedback/judgements", thumb(made["id"], reason="short")),
        post(client, "/feedback/judgements", {"kind": "rating", "rating": 5, **said(made, "ann")}),
        post(client, "/feedback/judgements", {"kind": "ranking", "ranking": [[1], [0]], **said(made, "ann")}),
        post(client, "/feedback/judgements", {"kind": "edit", "text": "better", **said(made, "ann")}),
        post(client, "/feedback/judgements", {"kind": "skip", "seconds": 2, **said(made, "bob")}),
    ]
    assert [kept.plain() for kept in store.each()] == [made, *judged]
    assert made["candidates"][1]["model"] == "B"
    assert made["time"].endswith("Z")


def said(made, annotator):
    return {"exchange": made["id"], "annotator": annotator}


def test_a_request_sent_again_is_kept_once(client, store):
    headers = {"Idempotency-Key": "one"}
    first = post(client, "/feedback/exchanges", ROUND, **headers)
    assert post(client, "/feedback/exchanges", ROUND, **headers) == first
    assert len(list(store.each())) == 1
    post(client, "/feedback/exchanges", {**ROUND, "page": "2"}, 409, **headers)


def test_a_judgement_is_replaced_and_taken_back(client):
    exchange = asked(client)
    first = post(client, "/feedback/judgements", thumb(exchange))
    second = post(client, f"/feedback/judgements/{first['id']}/replace", thumb(exchange, up=False))
    assert second["replaces"] == first["id"]
    back = {"kind": "retraction", "exchange": exchange, "annotator": "ann"}
    post(client, f"/feedback/judgements/{first['id']}/replace", back, 409)
    post(client, f"/feedback/judgements/{second['id']}/replace", back)
    assert client.get("/feedback/export?format=kto").text == ""


def test_the_review_queue_goes_round(client):
    exchange = asked(client)
    items = post(client, "/feedback/review", {"items": [{"exchange": exchange}, {"prompt": PROMPT}]})["items"]
    first = client.get("/feedback/review?annotator=ann").json()
    assert first["item"] == items[0]
    assert first["exchange"]["candidates"][0]["text"] == "a"
    post(client, "/feedback/judgements", thumb(exchange))
    assert client.get("/feedback/review?annotator=ann").json() == {"item": items[1], "exchange": None, "left": 1}
    post(client, "/feedback/judgements", thumb(asked(client, review=items[1]["id"])))
    assert client.get("/feedback/review?annotator=ann").json() == {"item": None, "exchange": None, "left": 0}


def test_the_dashboard_and_the_export(client):
    for annotator in ("ann", "bob"):
        body = {"kind": "ranking", "ranking": [[1], [0]], "exchange": asked(client), "annotator": annotator}
        post(client, "/feedback/judgements", body)
    found = client.get("/feedback/dashboard").json()
    assert found["win_rates"]["B"]["rate"] == 1.0
    assert found["volume"]["by_day"][0]["judgement"] == 2
    assert set(found["annotators"]) == {"ann", "bob"}
    response = client.get("/feedback/export?format=preferences")
    assert response.headers["content-type"].startswith("application/x-ndjson")
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert [line["chosen"][0]["content"] for line in lines] == ["b", "b"]


def test_a_person_is_forgotten(client, store):
    post(client, "/feedback/judgements", thumb(asked(client)))
    assert client.delete("/feedback/annotators/ann").json() == {"removed": 1}
    assert [kept.record.type for kept in store.each()] == ["exchange", "forgotten"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/feedback/exchanges", {**ROUND, "shown": []}, 400),
        ("POST", "/feedback/exchanges", {**ROUND, "likes": 3}, 400),
        ("POST", "/feedback/exchanges", {**ROUND, "review": "gone"}, 404),
        ("POST", "/feedback/exchanges", {**ROUND, "page": "x" * 301}, 400),
        ("POST", "/feedback/exchanges", {**ROUND, "prompt": [{"role": "user", "content": "\ud800"}]}, 400),
        ("POST", "/feedback/judgements", thumb("gone"), 404),
        ("POST", "/feedback/judgements", {"kind": "star"}, 400),
        ("POST", "/feedback/judgements", [], 400),
        ("POST", "/feedback/judgements/gone/replace", {**thumb("gone"), "kind": "retraction"}, 400),
        ("POST", "/feedback/review", {"items": []}, 400),
        ("POST", "/feedback/review", {"items": [{"exchange": "gone"}]}, 404),
        ("GET", "/feedback/review", None, 400),
        ("GET", "/feedback/review?annotator=a%20b", None, 400),
        ("GET", "/feedback/export?format=xml", None, 400),
        ("DELETE", "/feedback/annotators/%00", None, 400),
    ],
)
def test_what_is_wrong_is_said_in_openais_shape(client, method, path, body, status):
    raw = json.dumps(body).encode() if body is not None else None
    response = client.request(method, path, content=raw, headers={"content-type": "application/json"})
    assert response.status_code == status, response.text
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert response.json()["error"]["message"]


def test_a_store_that_cannot_be_used_is_the_servers_trouble(client, store, tmp_path):
    with store.engine.begin() as connection:
        connection.exec_driver_sql("drop table feedback_record")
    response = client.post("/feedback/exchanges", json=ROUND)
    assert response.status_code == 503
    assert "no such table" in response.json()["error"]["message"]
    assert client.get("/feedback/export").status_code == 503
