"""The app, found as `fastapi run` finds it: https://fastapi.tiangolo.com/fastapi-cli/"""

import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# In this order.
FILES = ("main.py", "app.py", "api.py", "app/main.py", "app/app.py", "app/api.py")
NAMES = ("app", "api")


class NotFound(ValueError):
    """Says where it was looked."""


@dataclass(frozen=True)
class Found:
    module: str
    # None: whichever FastAPI the module has.
    attribute: str | None


def find(app: str, entrypoint: Callable[[Path], str | None], folder: Path) -> Found:
    """Where the app is, without importing it; its folders are on the path then. Raises NotFound.

    `app` is APP's value, module:attribute, or empty. `entrypoint` reads a pyproject.toml, and may raise NotFound.
    """
    add(folder)
    wanted = app or entrypoint(folder / "pyproject.toml")
    if wanted:
        module, _, attribute = wanted.partition(":")
        if not exists(module):
            raise NotFound(f"APP={wanted} is wrong: there is no module {module} in {folder}.")
        return Found(module, attribute)
    for name in FILES:
        if (folder / name).exists():
            return at(folder / name)
    raise NotFound(
        f"There is no app: {folder} has none of {', '.join(FILES)}. APP names another: APP=package.module:app."
    )


def at(file: Path) -> Found:
    """The module of that file, as part of the packages that it is in.

    A module of a folder without __init__.py, app/main.py as main, finds its neighbours by their bare names.
    """
    names, parent = [file.stem], file.parent
    while (parent / "__init__.py").exists():
        names.insert(0, parent.name)
        parent = parent.parent
    add(parent)
    return Found(".".join(names), None)


def add(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def exists(module: str) -> bool:
    """Whether it can be found, without importing the packages that it is in, which is what find_spec does."""
    first, *others = module.split(".")
    spec, name = find_spec(first) if first else None, first
    for part in others:
        if not spec or spec.submodule_search_locations is None:
            return False
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, spec.submodule_search_locations)
    return spec is not None


def entrypoint(file: Path) -> str | None:
    """What `[tool.fastapi]` of a pyproject.toml names. Raises NotFound where this Python can't read it."""
    if not file.exists():
        return None
    try:
        # Python 3.11 has it.
        import tomllib
    except ImportError:
        if not re.search(r"^\s*\[\s*tool\s*\.\s*fastapi\s*\]", file.read_text(), re.MULTILINE):
            return None
        raise NotFound(
            f"Python {sys.version_info[0]}.{sys.version_info[1]} can't read [tool.fastapi] in {file}: name the app by "
            "APP=package.module:app, or use Python 3.11 or newer."
        ) from None
    named = tomllib.loads(file.read_text()).get("tool", {}).get("fastapi", {}).get("entrypoint")
    return str(named) if named else None


def load(found: Found) -> Any:
    """Import the app; one that a function makes is made. Raises NotFound, and whatever the import raises."""
    module = import_module(found.module)
    if found.attribute:
        if not hasattr(module, found.attribute):
            raise NotFound(f"APP is wrong: the module {found.module} has no {found.attribute}.")
        return made(getattr(module, found.attribute))
    for name in NAMES:
        if is_fastapi(getattr(module, name, None)):
            return getattr(module, name)
    for value in vars(module).values():
        if is_fastapi(value):
            return value
    raise NotFound(f"There is no FastAPI app in {module.__file__}. APP names it: APP={found.module}:name.")


def is_fastapi(value: Any) -> bool:
    return any(f"{kind.__module__}.{kind.__name__}" == "fastapi.applications.FastAPI" for kind in type(value).__mro__)


def made(value: Any) -> Any:
    """The app itself, where `value` is a function that needs nothing to make it."""
    if inspect.isfunction(value) and not inspect.iscoroutinefunction(value):
        empty = inspect.Parameter.empty
        needed = [one for one in inspect.signature(value).parameters.values() if one.default is empty]
        if not [one for one in needed if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]:
            return value()
    return value
