"""An app that `create_app` made, without a database."""

import pytest
from app.docs import create_app
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient


@pytest.fixture
def client() -> TestClient:
    """With a route beside the documentation's, and one for all that nothing else answers."""
    app = create_app()

    @app.get("/docs/mine")
    async def mine(request: Request) -> str:
        return str(request.url_for("swagger_ui_redirect"))

    async def anything(_request: Request) -> Response:
        return PlainTextResponse("anything")

    app.add_route("/{path:path}", anything)
    return TestClient(app)


def test_pages_come_before_the_apps_own_routes(client: TestClient) -> None:
    """As with FastAPI: whatever else the app answers, these are there."""
    assert "swagger-ui" in client.get("/docs").text
    assert "redoc" in client.get("/redoc").text
    assert client.get("/openapi.json").json()["paths"].keys() == {"/docs/mine"}
    assert client.get("/static-offline-docs/redoc.standalone.js").headers["Content-Type"].startswith("text/javascript")
    assert client.get("/static-offline-docs/swagger-ui.css").headers["Content-Type"].startswith("text/css")


def test_routes_beside_the_pages_are_the_apps(client: TestClient) -> None:
    """What only begins like one of the pages is the app's."""
    assert client.get("/docs/mine").json() == "http://testserver/docs/oauth2-redirect"
    assert client.get("/docs/other").text == "anything"
    assert client.get("/docsx").text == "anything"


def test_routes_given_to_the_app_are_its_own() -> None:
    """Whatever their paths are."""
    app = create_app(routes=[Route("/{name}", lambda request: PlainTextResponse("mine")), Mount("/", routes=[])])
    client = TestClient(app)
    assert client.get("/any").text == "mine"
    assert "swagger-ui" in client.get("/docs").text


def test_pages_are_read_only() -> None:
    """Another verb is 405, and a slash too many leads to the page."""
    client = TestClient(create_app(), follow_redirects=False)
    assert client.post("/docs").status_code == 405
    assert client.get("/docs/").headers["Location"] == "http://testserver/docs"
    assert client.get("/docs/other").status_code == 404
    assert client.get("/elsewhere").status_code == 404
