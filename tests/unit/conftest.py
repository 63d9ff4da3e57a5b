import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tests.unit.clones import Folder, cloned, make_upstream


@pytest.fixture(scope="session")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return make_upstream(tmp_path_factory.mktemp("upstream"))


@pytest.fixture
def clone(upstream: Folder, tmp_path: Path) -> Folder:
    """A plain clone at 1.0.0."""
    return cloned(upstream, tmp_path / "clone")


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules of `backup` can be imported within. What they need of PyPI is in the image alone, and not used here."""
    kept = {name for name in sys.modules if name.startswith("backup")}
    cron, database = ModuleType("apscheduler.triggers.cron"), ModuleType("psycopg2")
    cron.CronTrigger = object  # type: ignore[attr-defined]  # made up
    database.extensions = SimpleNamespace(set_wait_callback=lambda _: None)  # type: ignore[attr-defined]  # made up
    made = [*(ModuleType(name) for name in ("zstandard", "apscheduler", "apscheduler.triggers")), cron, database]
    for module in made:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    yield
    for name in [name for name in sys.modules if name.startswith("backup") and name not in kept]:
        sys.modules.pop(name)
