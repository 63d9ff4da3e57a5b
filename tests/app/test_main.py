import pytest
from starlette.testclient import TestClient


def test_root_is_the_guides(client: TestClient) -> None:
    """`GET /` answers what FastAPI's Docker guide shows."""
    assert client.get("/").json() == {"Hello": "World"}


def test_item_is_the_guides(client: TestClient) -> None:
    """`GET /items/{item_id}?q=` answers what FastAPI's Docker guide shows, in that order."""
    assert client.get("/items/5?q=somequery").text == '{"item_id":5,"q":"somequery"}'
    assert client.get("/items/5").json() == {"item_id": 5, "q": None}
    assert client.get("/items/five").status_code == 422


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_docs_name_no_third_party(client: TestClient, page: str) -> None:
    """The documentation pages load nothing from another host."""
    text = client.get(page).text
    assert "<html" in text
    assert 'src="http' not in text
    assert 'href="http' not in text
