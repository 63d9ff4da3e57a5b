"""Where an app is found, in a process of its own for each: an import can't be undone."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO

PROGRAM = """
import sys
sys.path[0] = sys.argv[1]
from pathlib import Path
from runtime import find, limits
# In an image there is no app beside it.
del sys.path[0]
# As in Python 3.10.
if sys.argv[3:]:
    sys.modules["tomllib"] = None
try:
    found = find.find(sys.argv[2], Path.cwd())
    print(found.module, "imported" if {"main", "shop", "app"} & set(sys.modules) else "not imported")
    print(find.load(found).title)
except limits.Wrong as wrong:
    print(wrong)
"""
APP = "from fastapi import FastAPI\n{name} = FastAPI(title='{title}')\n"


def app(title: str = "mine", name: str = "app") -> str:
    return APP.format(name=name, title=title)


def found(folder: Path, files: dict[str, str], setting: str = "", *older: str) -> list[str]:
    """What is printed where these files are: the module, and the app's title; or why there is none."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(REPO), setting, *older],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return (done.stdout + done.stderr.strip().rpartition("\n")[2]).splitlines()


@pytest.mark.parametrize(
    ("file", "module"),
    [
        ("main.py", "main"),
        ("app.py", "app"),
        ("api.py", "api"),
        ("app/main.py", "main"),
        ("app/app.py", "app"),
        ("app/api.py", "api"),
    ],
)
def test_places(tmp_path: Path, file: str, module: str) -> None:
    """Each of those where `fastapi run` looks; nothing is imported while it is looked for."""
    assert found(tmp_path, {file: app()}) == [f"{module} not imported", "mine"]


def test_order_of_the_places(tmp_path: Path) -> None:
    """The first one counts."""
    files = {"app/main.py": app("third"), "app.py": app("second"), "main.py": app("first")}
    assert found(tmp_path, files)[1] == "first"


def test_module_of_a_package(tmp_path: Path) -> None:
    """With __init__.py it is the package's, and may import its neighbours as that."""
    files = {"app/__init__.py": "", "app/title.py": "TITLE = 'of the package'"}
    files["app/main.py"] = "from fastapi import FastAPI\nfrom .title import TITLE\napp = FastAPI(title=TITLE)"
    assert found(tmp_path, files) == ["app.main not imported", "of the package"]


def test_module_of_a_folder(tmp_path: Path) -> None:
    """Without __init__.py it is a module of its own, beside its neighbours and the working directory's."""
    files = {"app/title.py": "from suffix import S\nTITLE = 'of the folder' + S", "suffix.py": "S = '!'"}
    files["app/main.py"] = "from fastapi import FastAPI\nfrom title import TITLE\napp = FastAPI(title=TITLE)"
    assert found(tmp_path, files) == ["main not imported", "of the folder!"]


def test_neighbour_with_a_name_of_pythons(tmp_path: Path) -> None:
    """It hides nothing of the standard library, however the app imports it. Of two others the nearer one counts."""
    files = {f"app/{name}.py": "LOCAL = True" for name in ("email", "queue", "secrets", "calendar", "wave")}
    files |= {"app/title.py": "TITLE = 'of the folder'", "title.py": "TITLE = 'of the working directory'"}
    code = "from app.email import LOCAL\nfrom secrets import token_hex\nfrom wave import open\nimport email.message\n"
    files["app/main.py"] = f"{code}from title import TITLE\nfrom fastapi import FastAPI\napp = FastAPI(title=TITLE)"
    assert found(tmp_path, files) == ["main not imported", "of the folder"]


@pytest.mark.parametrize(
    ("text", "title"),
    [
        (app("other", "other") + app("of this name", "app"), "of this name"),
        (app("other", "other") + app("of that name", "api"), "of that name"),
        (app("the only one", "shop"), "the only one"),
        ("from fastapi import FastAPI\nclass Mine(FastAPI): pass\nshop = Mine(title='of a subclass')", "of a subclass"),
        ("app = 5\n" + app("whichever it is", "shop"), "whichever it is"),
    ],
)
def test_names(tmp_path: Path, text: str, title: str) -> None:
    """`app`, then `api`, then whichever FastAPI there is."""
    assert found(tmp_path, {"main.py": text})[1] == title


@pytest.mark.parametrize(
    ("setting", "title"),
    [
        ("shop.web:site", "named"),
        ("shop.web:make", "made"),
        ("shop.web:make_with", "made with defaults"),
    ],
)
def test_app_names_another(tmp_path: Path, setting: str, title: str) -> None:
    """A module and an attribute, which may be a function that makes the app; it comes before all places."""
    text = app("named", "site")
    text += "def make(): return FastAPI(title='made')\n"
    text += "def make_with(title='made with', *rest, more='defaults'): return FastAPI(title=f'{title} {more}')\n"
    files = {"main.py": app("of main"), "shop/__init__.py": "", "shop/web.py": text}
    assert found(tmp_path, files, setting) == ["shop.web not imported", title]


def test_entrypoint_of_the_project(tmp_path: Path) -> None:
    """`[tool.fastapi] entrypoint` of pyproject.toml, unless APP names another."""
    files = {"pyproject.toml": '[tool.fastapi]\nentrypoint = "shop:site"\n', "shop.py": app("entry", "site")}
    files["main.py"] = app("of main")
    assert found(tmp_path, files) == ["shop not imported", "entry"]
    assert found(tmp_path, files, "main:app")[1] == "of main"


def test_entrypoint_that_the_oldest_python_cannot_read(tmp_path: Path) -> None:
    """One sentence, and not another app than the project names; with APP, or nothing to read, all is well."""
    files = {"pyproject.toml": '[tool.fastapi]\nentrypoint = "shop:site"\n', "shop.py": app("entry", "site")}
    files["main.py"] = app("of main")
    [said] = found(tmp_path, files, "", "older")
    assert re.fullmatch(
        rf"Python 3\.\d+ can't read \[tool\.fastapi\] in {tmp_path}/pyproject\.toml: name the app by "
        r"APP=package\.module:app, or use Python 3\.11 or newer\.",
        said,
    )
    assert found(tmp_path, files, "shop:site", "older")[1] == "entry"
    assert found(tmp_path, {"pyproject.toml": "[project]\nname = 'x'\n"}, "", "older")[1] == "of main"


def test_project_without_an_entrypoint(tmp_path: Path) -> None:
    """Any other pyproject.toml changes nothing."""
    assert found(tmp_path, {"pyproject.toml": "[project]\nname = 'x'\n", "main.py": app()})[1] == "mine"


@pytest.mark.parametrize(
    ("files", "setting", "said"),
    [
        ({}, "", "There is no app: {} has none of main.py, app.py, api.py, app/main.py, app/app.py, app/api.py. "
         "APP names another: APP=package.module:app."),
        ({"main.py": "app = 5"}, "", "There is no FastAPI app in {}/main.py. APP names it: APP=main:name."),
        ({}, "nosuch:app", "APP=nosuch:app is wrong: there is no module nosuch in {}."),
        ({"shop/__init__.py": ""}, "shop.web:app", "APP=shop.web:app is wrong: there is no module shop.web in {}."),
        ({"shop.py": ""}, "shop.web:app", "APP=shop.web:app is wrong: there is no module shop.web in {}."),
        ({"shop.py": ""}, "shop:app", "APP is wrong: the module shop has no app."),
    ],
)  # fmt: skip
def test_where_there_is_none(tmp_path: Path, files: dict[str, str], setting: str, said: str) -> None:
    """One sentence says where it was looked, and what to set."""
    assert found(tmp_path, files, setting)[-1] == said.format(tmp_path)


@pytest.mark.parametrize("broken", ["raise RuntimeError('as planned')", "import missing_one"])
def test_app_that_cannot_be_imported_is_found(tmp_path: Path, broken: str) -> None:
    """What is wrong with it is the import's to say, and not that it isn't there; PID 1 imports none of it."""
    files = {"shop/__init__.py": broken, "shop/web.py": app()}
    said = found(tmp_path, files, "shop.web:app")
    assert said[0] == "shop.web not imported"
    assert "as planned" in said[1] or "No module named 'missing_one'" in said[1]
