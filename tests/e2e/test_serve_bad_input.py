"""What people and bots send: each gets one sentence and the right status, and the server stays up."""

# ruff: noqa: F401, F811  (fixtures are imported by name)

import json
import re
import socket
import sqlite3
import threading
import time

import pytest
from shopfront import client, event, feed, folder, pipeline, post, serving, shared, train, trained

from vitrina.serve import Settings

JSON = {"content-type": "application/json"}
RECOMMEND = "/v1/users/{}/recommendations"


def sentence(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert told["status"] == status
    assert "\n" not in told["detail"]
    assert "Traceback" not in answer.text
    return told["detail"]


@pytest.mark.parametrize("path", ["/v1/events", "/v1/sessions/recommendations"])
@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b"[" * 200_000, 400, "JSON|nested"),
        (b'{"items": ' + b"[" * 5000 + b"]" * 5000 + b"}", 400, "nested|JSON|form"),
        (b"[]", 422, "expected form"),
        (b"null", 422, "expected form"),
        (b"{}", 422, "missing required field"),
        (b'{"items": "a", "events": "b"}', 422, "expected form"),
        (b'{"items": [], "events": [], "extra": 1}', 422, "unknown field"),
    ],
)
def test_a_body_that_cannot_be_read(shared, path, body, status, words):
    answer = shared.post(path, content=body, headers=JSON)
    if b"[" * 5000 in body:  # which rule it breaks first depends on the decoder
        assert answer.status_code in (400, 422)
        return
    assert re.search(words, sentence(answer, status))


def test_numbers_that_json_does_not_have(shared):
    answer = shared.post("/v1/sessions/recommendations", content=b'{"items": [NaN]}', headers=JSON)
    assert "not JSON" in sentence(answer, 400)
    answer = shared.post("/v1/events", content=b'{"events": [Infinity]}', headers=JSON)
    assert "not JSON" in sentence(answer, 400)


def test_a_form_or_plain_text_is_refused_as_another_site_could_send_it(shared):
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = shared.post("/v1/events", content=b'{"events": []}', headers={"content-type": kind})
        assert "application/json" in sentence(answer, 415)


def test_a_batch_is_limited_and_bad_events_do_not_spoil_good_ones(shared):
    many = shared.post("/v1/events", json={"events": [event(n) for n in range(1001)]})
    assert "at most 1000 events, got 1001" in sentence(many, 422)
    told = post(shared, event(1), {"nonsense": 1}, event(2, ts=5), event(3))
    assert told["accepted"] == 2
    assert [one["index"] for one in told["rejected"]] == [1, 2]
    assert post(shared) == {"accepted": 0, "duplicates": 0, "unknown_items": 0, "rejected": []}


def test_a_session_is_limited(shared):
    path = "/v1/sessions/recommendations"
    assert "at most 1000 items" in sentence(shared.post(path, json={"items": ["a"] * 1001}), 422)
    assert "at most 256" in sentence(shared.post(path, json={"items": ["a" * 257]}), 422)
    assert "at most 500" in sentence(shared.post(path, json={"items": [], "k": 501}), 422)
    assert "expected form" in sentence(shared.post(path, json={"items": [], "k": 0}), 422)
    assert "at most 500" in sentence(shared.post(path, json={"items": [], "k": 10**30}), 422)
    assert shared.post(path, json={"items": [-(2**63), 10**30, "", "\u0000", "item-1"]}).status_code == 200


@pytest.mark.parametrize("k", ["0", "-1", "501", "1e3", "abc", "", "9" * 400, "NaN", "1.5"])
def test_a_k_that_is_none(shared, k):
    detail = sentence(shared.get(RECOMMEND.format("user-5"), params={"k": k}), 422)
    assert detail.startswith("k ")
    assert len(detail) < 300


@pytest.mark.parametrize(
    "user_id",
    [
        "..%2F..%2Fetc%2Fpasswd",
        "%00",
        "%0dset-cookie:x=1",
        "' OR 1=1 --",
        "%F0%9F%99%82",
        "%FF",
        "a%2Fb",
        "%E2%80%AE",
    ],
)
def test_strange_user_ids_are_only_unknown_users(shared, user_id):
    answer = shared.get(RECOMMEND.format(user_id))
    assert answer.status_code == 200
    assert answer.json()["known"] is False
    assert "set-cookie" not in answer.headers


def test_a_line_break_in_an_address_is_no_user(shared):
    sentence(shared.get(RECOMMEND.format("a%0aset-cookie:x=1")), 404)


def test_ids_that_are_too_long_or_missing(shared):
    assert "user_id" in sentence(shared.get(RECOMMEND.format("x" * 257)), 422)
    assert "user_id" in sentence(shared.get(RECOMMEND.format("")), 422)
    sentence(shared.get("/v1/items/" + "x" * 2000 + "/similar"), 422)


@pytest.mark.parametrize(
    "path",
    ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/events.db", "/v1", "/docs"],
)
def test_there_is_nothing_beside_the_pages(shared, path):
    raw = raw_request(shared, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    assert raw.split(b" ", 2)[1] == b"404"


def test_the_wrong_verb(shared):
    sentence(shared.delete("/v1/events"), 405)
    sentence(shared.get("/v1/events"), 405)


def raw_request(client, head, chunks=()):
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as wire:
        wire.sendall(head)
        sent = 0
        try:
            for chunk in chunks:
                wire.sendall(chunk)
                sent += len(chunk)
        except OSError:
            pass
        answer = b""
        try:
            while part := wire.recv(65536):
                answer += part
        except OSError:
            pass
    raw_request.sent = sent
    return answer


HEAD = b"POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


def test_a_body_of_100_mb_is_refused_before_it_is_read(shared):
    answer = raw_request(shared, HEAD + b"Content-Length: 100000000\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"larger than 2097152 bytes" in answer


def test_a_body_of_100_mb_without_a_length_is_cut_off(shared):
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    answer = raw_request(shared, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", (chunk for _ in range(1600)))
    assert raw_request.sent < 20_000_000, "the server went on reading"
    assert not answer or answer.startswith(b"HTTP/1.1 413")
    assert feed(shared, "user-5")["items"], "the server is still there"


def test_a_chunked_body_just_over_the_limit_is_told(folder):
    with serving(folder, Settings(max_body_bytes=1000)) as client:
        answer = client.post("/v1/events", content=iter([b" " * 600, b" " * 600]), headers=JSON)
        assert "larger than 1000 bytes" in sentence(answer, 413)
        answer = client.post("/v1/events", content=iter([b'{"events":', b" " * 600, b"[]}"]), headers=JSON)
        assert answer.status_code == 200


def test_a_length_that_is_no_number(shared):
    answer = raw_request(shared, HEAD + b"Content-Length: -5\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400")


def test_a_state_that_is_locked_answers_503_and_acknowledges_nothing(folder):
    with serving(folder) as client:
        client.app.state.service.state._writer.execute("PRAGMA busy_timeout = 50")
        other = sqlite3.connect(folder / "events.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        answer = client.post("/v1/events", json={"events": [event(1)]})
        assert "another process holds its lock" in sentence(answer, 503)
        assert answer.headers["retry-after"] == "1"
        assert feed(client, "user-5")["failures"] == {}, "reading goes on"
        other.execute("ROLLBACK")
        other.close()
        assert post(client, event(1))["duplicates"] == 0


def test_a_full_disk_answers_503_and_acknowledges_nothing(client):
    writer = client.app.state.service.state._writer
    n_pages = writer.execute("PRAGMA page_count").fetchone()[0]
    writer.execute(f"PRAGMA max_page_count = {n_pages + 1}")
    many = [event(n, item_id="x" * 200) for n in range(300)]
    answer = client.post("/v1/events", json={"events": many})
    assert "the disk is full; nothing of this request was stored" in sentence(answer, 503)
    assert client.app.state.service.state.counts()["events"] == 0
    writer.execute("PRAGMA max_page_count = 100000")
    assert post(client, *many)["accepted"] == 300


def test_too_many_waiting_requests_are_turned_away(folder):
    with serving(folder, Settings(n_threads=1, max_waiting=2)) as client:
        service = client.app.state.service
        hold, plain = threading.Event(), service.recommend
        service.recommend = lambda *args, **named: hold.wait(10) and plain(*args, **named)
        statuses = []
        threads = [
            threading.Thread(
                target=lambda: statuses.append(client.get(RECOMMEND.format("user-5")).status_code)
            )
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 10
        while statuses.count(503) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        hold.set()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [200, 200, 503, 503, 503, 503]


def test_an_error_inside_is_one_sentence_without_its_insides(client):
    def broken(*args, **named):
        raise RuntimeError("secret")

    client.app.state.service.recommend = broken
    answer = client.get(RECOMMEND.format("user-5"))
    assert "secret" not in sentence(answer, 500)


def test_every_answer_carries_the_security_headers(shared):
    for path in ("/", "/v1/popular", "/nope", "/static/console.css", "/v1/popular?k=0"):
        headers = shared.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "'unsafe" not in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers
    preflight = shared.options(
        "/v1/events", headers={"origin": "https://evil", "access-control-request-method": "POST"}
    )
    assert preflight.status_code == 405
    report = shared.get("/report.html").headers["content-security-policy"]
    assert report.startswith("sandbox allow-scripts;")


def test_only_the_named_hosts_are_answered(folder):
    with serving(folder, Settings(allowed_hosts=("127.0.0.1",))) as client:
        assert client.get("/health/live").status_code == 200
        rebound = client.get("/health/live", headers={"host": "evil.example"})
        assert "evil.example" in sentence(rebound, 400)


def test_the_console_takes_no_events_from_other_sites(client):
    form = {"user": "user-5", "item": "item-59"}
    sentence(client.post("/act", data=form), 403)
    sentence(client.post("/act", data=form, headers={"sec-fetch-site": "cross-site"}), 403)
    assert client.post("/act", data=form, headers={"sec-fetch-site": "same-origin"}).status_code == 200
    assert client.app.state.service.state.counts()["events"] == 1


def test_hostile_titles_are_text_everywhere(shared):
    for path in ("/item?id=item-3", "/?h=item-3", "/search?q=script", "/?h=item-2", "/operations"):
        page = shared.get(path).text
        assert "<script>fetch" not in page
        assert "<img src=x" not in page
    assert "&lt;script&gt;fetch" in shared.get("/?h=item-3").text
    assert "{{7*7}}" in shared.get("/item?id=item-3").text
    for path in ("/?user=<script>1</script>", "/search?q=<script>1", "/users?uq=<script>1"):
        assert "<script>1" not in shared.get(path).text


def test_pages_take_anything_in_their_address(shared):
    for path in (
        "/?h=nope&h=&add=item-1&drop=99999999&drop=-1",
        "/?drop=0",
        "/?user=" + "x" * 3000,
        "/?" + "h=item-1&" * 1200,
        "/?enter=1&q=teapot",
        "/?h=%ff%00",
        "/search?q=" + "(" * 50,
        "/users?uq=%25",
        "/item?id=item-1",
        "/report",
        "/api",
    ):
        assert shared.get(path).status_code == 200, path
    sentence(shared.get("/?" + "h=1&" * 6000), 400)
    sentence(shared.get("/item?id=nope"), 404)
    json.dumps(shared.get("/openapi.json").json())
