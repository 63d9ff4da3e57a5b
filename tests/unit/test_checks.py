from pathlib import Path

import pytest

from ops import dotenv
from ops.machine import checks
from tests.conftest import REPO


def test_misspelt_setting_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name in .env that is no setting would otherwise do nothing and say nothing."""
    monkeypatch.setattr(checks, "HERE", tmp_path)
    monkeypatch.setattr(dotenv, "FILE", tmp_path / ".env")
    (tmp_path / ".env.example").write_text((REPO / ".env.example").read_text())
    assert checks.unknown_settings() == []
    (tmp_path / ".env").write_text("# WORKRES=3\nWORKERS=3\nDRAIN_SECOND=1\nCOMPOSE_PROJECT_NAME=x\n")
    assert checks.unknown_settings() == ["DRAIN_SECOND"]
