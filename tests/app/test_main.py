from starlette.testclient import TestClient


def test_root_is_the_guides(client: TestClient) -> None:
    """`GET /` answers what FastAPI's Docker guide shows."""
    assert client.get("/").json() == {"Hello": "World"}


def test_item_is_the_guides(client: TestClient) -> None:
    """`GET /items/{item_id}?q=` answers what FastAPI's Docker guide shows, in that order."""
    assert client.get("/items/5?q=somequery").text == '{"item_id":5,"q":"somequery"}'
    assert client.get("/items/5").json() == {"item_id": 5, "q": None}
    assert client.get("/items/five").status_code == 422


def test_documentation_is_there(client: TestClient) -> None:
    """FastAPI's own pages, of every route."""
    assert "swagger-ui" in client.get("/docs").text
    assert set(client.get("/openapi.json").json()["paths"]) == {"/", "/items/{item_id}", "/notes", "/notes/{note_id}"}
