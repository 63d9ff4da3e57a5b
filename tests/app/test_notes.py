from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.conftest import Database

JSON = {"Content-Type": "application/json"}


def create(client: TestClient, text: str) -> dict[str, Any]:
    answer = client.post("/notes", json={"text": text})
    assert answer.status_code == 201, answer.text
    note: dict[str, Any] = answer.json()
    return note


def test_created_note_is_where_location_says(client: TestClient) -> None:
    """POST answers 201 with the note, and Location leads to it."""
    answer = client.post("/notes", json={"text": "buy milk"})
    assert answer.status_code == 201
    note = answer.json()
    assert set(note) == {"id", "text", "created_at"}
    assert datetime.fromisoformat(note["created_at"]).tzinfo is not None
    assert answer.headers["Location"].endswith(f"/notes/{note['id']}")
    assert client.get(answer.headers["Location"]).json() == note


@pytest.mark.parametrize(
    "text", ["x", "x" * 10_000, "\n\t ", "日本語 🙂 \u202e", "'; DROP TABLE notes; --", "\u007f\ufffd"]
)
def test_text_comes_back_as_it_was(client: TestClient, text: str) -> None:
    """What is stored is what was sent, to the byte."""
    assert client.get(f"/notes/{create(client, text)['id']}").json()["text"] == text


def test_pages_walk_from_newest_to_oldest(client: TestClient) -> None:
    """Pages of any size, one after the other, give every note once, newest first, also while notes are added."""
    made = [create(client, f"page {n}")["id"] for n in range(7)]
    walked: list[int] = []
    after = ""
    while True:
        page = client.get(f"/notes?limit=3{after}").json()
        if not page:
            break
        walked += [note["id"] for note in page]
        create(client, "added while walking")
        after = f"&after={page[-1]['id']}"
    assert [n for n in walked if n in made] == made[::-1]
    assert walked == sorted(set(walked), reverse=True)


def test_replace_keeps_id_and_time(client: TestClient) -> None:
    """PUT changes the text and nothing else."""
    note = create(client, "old")
    assert client.put(f"/notes/{note['id']}", json={"text": "new"}).json() == note | {"text": "new"}
    assert client.get(f"/notes/{note['id']}").json() == note | {"text": "new"}


def test_deleted_note_is_gone(client: TestClient) -> None:
    """DELETE answers 204 once, then the note is 404 for every verb."""
    path = f"/notes/{create(client, 'short-lived')['id']}"
    assert client.delete(path).status_code == 204
    assert client.delete(path).status_code == 404
    assert client.get(path).status_code == 404
    assert client.put(path, json={"text": "again"}).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        *('{"text": ""}', '{"text": 5}', '{"text": null}', "{}", "[]", "null", "", "{", '"text"'),
        r'{"text": "a\u0000b"}',
        '{"text": "' + "x" * 10_001 + '"}',
        *('{"text": ' + "9" * 5_000 + "}", "[" * 20_000),
    ],
    ids=lambda body: body[:20],
)
def test_wrong_body_is_the_clients_error(client: TestClient, body: str) -> None:
    """A body that is no note is a 4xx with FastAPI's kind of body, for POST and PUT."""
    note = create(client, "untouched")
    for answer in (
        client.post("/notes", content=body, headers=JSON),
        client.put(f"/notes/{note['id']}", content=body, headers=JSON),
    ):
        assert answer.status_code in (400, 422), answer.text
        assert answer.json()["detail"]
    assert client.get(f"/notes/{note['id']}").json() == note


def test_bytes_that_are_no_utf8_are_the_clients_error(client: TestClient) -> None:
    """A body that is no text at all is a 4xx too."""
    assert client.post("/notes", content=b'{"text": "\xff\xfe"}', headers=JSON).status_code in (400, 422)


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "after=0", "after=-1", "after=x", f"after={2**63}", "limit=%00"]
)
def test_wrong_page_is_the_clients_error(client: TestClient, query: str) -> None:
    """A page that can't be is 422."""
    assert client.get(f"/notes?{query}").status_code == 422


@pytest.mark.parametrize("note_id", ["0", "-1", "x", str(2**63), "1.5", "%00", "9" * 400])
def test_wrong_id_is_the_clients_error(client: TestClient, note_id: str) -> None:
    """An id that no note can have is 422, for every verb."""
    for verb in ("GET", "PUT", "DELETE"):
        assert client.request(verb, f"/notes/{note_id}", json={"text": "x"}).status_code == 422


@pytest.fixture
def failing_commit(database: Database) -> Iterator[None]:
    if not database.server:
        pytest.skip("needs a server of our own")
    database.server.sql(
        """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused at commit'; END $$;
        CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON notes DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION refuse();
        """,
        role="owner",
    )
    yield
    database.server.sql("DROP TRIGGER refuse ON notes; DROP FUNCTION refuse()", role="owner")


@pytest.mark.usefixtures("failing_commit")
def test_acknowledged_means_committed(client: TestClient) -> None:
    """When the commit fails the client is told so: the answer is sent after it, not before."""
    assert client.post("/notes", json={"text": "never stored"}).status_code == 500
