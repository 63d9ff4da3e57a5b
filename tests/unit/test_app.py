"""Whose app it is, and what builds it."""

from pathlib import Path

import pytest

from ops import dotenv
from ops.release import build
from ops.run import Stop
from tests.conftest import REPO


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an app, beside an .env that names it."""
    for name in ("APP_DIR", "APP_IMAGE", "APP_DOCKERFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(dotenv, "FILE", tmp_path / ".env")
    made = tmp_path / "shop"
    made.mkdir()
    (tmp_path / ".env").write_text(f"APP_DIR={made}\n")
    return made


PROJECT, POETRY = '[project]\nname = "shop"\n', '[tool.poetry]\nname = "shop"\n'


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        ({"uv.lock": "", "requirements.txt": "", "pyproject.toml": PROJECT}, "uv"),
        ({"poetry.lock": "", "requirements.txt": "", "pyproject.toml": PROJECT}, "poetry"),
        ({"requirements.txt": "", "pyproject.toml": PROJECT}, "requirements"),
        ({"pyproject.toml": PROJECT}, "pyproject"),
        ({"pyproject.toml": PROJECT + POETRY}, "pyproject"),
        # Without a lock, and in the form that no other program reads.
        ({"pyproject.toml": POETRY}, "poetry"),
        ({"Dockerfile": "", "uv.lock": ""}, None),
    ],
)
def test_dockerfile_is_chosen_by_what_is_there(folder: Path, files: dict[str, str], chosen: str | None) -> None:
    """An app's own is left alone; else one of the stack's, that exists, is written down."""
    for name, text in files.items():
        (folder / name).write_text(text)
    build.choose_dockerfile()
    written = dotenv.read("APP_DOCKERFILE")
    if chosen is None:
        assert written is None
    else:
        assert written
        assert (folder / written).resolve() == REPO / f"runtime/dockerfiles/{chosen}.Dockerfile"
        assert (folder / f"{written}.dockerignore").exists()


def test_dockerfile_is_chosen_anew(folder: Path) -> None:
    """What `./stack` wrote goes with what is there: another lock, then a Dockerfile. The user's own line stays."""
    (folder / "requirements.txt").touch()
    build.choose_dockerfile()
    (folder / "uv.lock").touch()
    build.choose_dockerfile()
    assert str(dotenv.read("APP_DOCKERFILE")).endswith("/uv.Dockerfile")
    (folder / "Dockerfile").touch()
    build.choose_dockerfile()
    assert dotenv.read("APP_DOCKERFILE") is None
    assert "APP_DIR=" in dotenv.text()
    dotenv.write({"APP_DOCKERFILE": "other.Dockerfile"}, build.CHOSEN)
    build.choose_dockerfile()
    assert dotenv.read("APP_DOCKERFILE") == "other.Dockerfile"


def test_nothing_to_go_by_is_a_sentence(folder: Path) -> None:
    """It names what would do."""
    with pytest.raises(
        Stop, match=r"has neither a Dockerfile nor one of uv\.lock, poetry\.lock, requirements\.txt, py"
    ):
        build.choose_dockerfile()
