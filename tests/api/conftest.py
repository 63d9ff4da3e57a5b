"""The app as Uvicorn serves it, on a real Postgres."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from app.health import application
from starlette.testclient import TestClient

from app import database as pools
from app import serve, settings
from tests.conftest import Database

Call = Callable[[Callable[[], Awaitable[Any]]], Any]


@pytest.fixture(scope="session")
def client(database: Database) -> Iterator[TestClient]:
    database.alembic("upgrade", "head")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", database.app_url)
        patch.setenv("SCHEMA_HEAD", serve.schema_head())
        settings.load.cache_clear()
        # A bug must be the 500 that a client would see, not an exception here.
        with TestClient(application(), raise_server_exceptions=False) as client:
            yield client


@pytest.fixture
def call(client: TestClient) -> Call:
    """Calls in the app's event loop."""
    assert client.portal
    return client.portal.call


@pytest.fixture
def new_pools(call: Call) -> Iterator[None]:
    """Pools without a connection, and others for the other tests, which know nothing of what became of these."""
    call(pools.dispose)
    yield
    call(pools.dispose)
