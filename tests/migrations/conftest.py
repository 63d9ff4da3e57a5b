from collections.abc import Iterator

import pytest

from app import settings
from tests.conftest import Database
from tests.migrations.chains import Chain


@pytest.fixture
def empty(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A database that no revision has run in, and that Alembic in this process finds too."""
    monkeypatch.setenv("DATABASE_URL", database.owner_url)
    settings.load.cache_clear()
    Chain().downgrade()
    yield database
    settings.load.cache_clear()
