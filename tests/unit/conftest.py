from pathlib import Path

import pytest

from tests.unit.clones import Folder, cloned, make_upstream


@pytest.fixture(scope="session")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return make_upstream(tmp_path_factory.mktemp("upstream"))


@pytest.fixture
def clone(upstream: Folder, tmp_path: Path) -> Folder:
    """A plain clone at 1.0.0."""
    return cloned(upstream, tmp_path / "clone")
