"""The app on a real Postgres."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from tests.conftest import REPO, Database


@pytest.fixture(scope="session", autouse=True)
def app(database: Database) -> FastAPI:
    """With the engine of this database: it is made when the app is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", database.app_url)
        from app.main import app

        return app


@pytest.fixture(scope="module")
def client(app: FastAPI, database: Database) -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", database.owner_url)
        subprocess.run([sys.executable, "-m", "alembic", "upgrade", "head"], cwd=REPO, check=True)
    # A bug must be the 500 that a client would see, not an exception here.
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client
