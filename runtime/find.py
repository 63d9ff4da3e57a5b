"""The app, found as `fastapi run` finds it: https://fastapi.tiangolo.com/fastapi-cli/"""

import inspect
import logging
import re
import sys
import sysconfig
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from . import hints, lines
from .limits import Wrong

# In this order.
FILES = ("main.py", "app.py", "api.py", "app/main.py", "app/app.py", "app/api.py")
NAMES = ("app", "api")


@dataclass(frozen=True)
class Found:
    module: str
    # None: whichever FastAPI the module has.
    attribute: str | None


def find(app: str, folder: Path) -> Found:
    """Where the app is, without importing it; its folders are on the path then. Raises Wrong.

    `app` is APP's value, module:attribute, or empty.
    """
    if wanted := app or entrypoint(folder / "pyproject.toml"):
        add(folder)
        module, _, attribute = wanted.partition(":")
        return Found(module, attribute)
    for file in (folder / name for name in FILES):
        if file.exists():
            # The module as part of the packages that it is in. One of a folder without __init__.py, app/main.py as
            # main, finds its neighbours by their bare names.
            names, parent = [file.stem], file.parent
            while (parent / "__init__.py").exists():
                names.insert(0, parent.name)
                parent = parent.parent
            # One of those may have a name of the standard library's, and be meant as app.email.
            add(parent, folder, place=behind_library() if folder in parent.parents else 0)
            return Found(".".join(names), None)
    raise Wrong(f"There is no app: {folder} has none of {', '.join(FILES)}. APP names another: APP=package.module:app.")


def add(*folders: Path, place: int = 0) -> None:
    """Put them on the path there, but for one that is on it already."""
    sys.path[place:place] = [one for one in dict.fromkeys(map(str, folders)) if one not in sys.path]


def behind_library() -> int:
    """The place on the path behind the standard library, before what is installed."""
    library = sysconfig.get_path("stdlib")
    places = [place for place, one in enumerate(sys.path, 1) if one in (library, f"{library}/lib-dynload")]
    return max(places, default=0)


def entrypoint(file: Path) -> str | None:
    """What `[tool.fastapi]` of a pyproject.toml names. Raises Wrong where this Python can't read it."""
    text = file.read_text() if file.exists() else ""
    try:
        # Python 3.11 has it.
        import tomllib
    except ImportError:
        if not re.search(r"^\s*\[\s*tool\s*\.\s*fastapi\s*\]", text, re.MULTILINE):
            return None
        raise Wrong(
            f"Python {sys.version_info[0]}.{sys.version_info[1]} can't read [tool.fastapi] in {file}: name the app by "
            "APP=package.module:app, or use Python 3.11 or newer."
        ) from None
    named = tomllib.loads(text).get("tool", {}).get("fastapi", {}).get("entrypoint")
    return str(named) if named else None


def load_or_exit(found: Found) -> Any:
    """Import the app; what is wrong ends the process: with 2 after a sentence, with 1 after a traceback.

    Trying again at once, for ever, would help nobody; Docker's restart policy waits longer each time.
    """
    try:
        return load(found)
    except Wrong as wrong:
        lines.say(str(wrong), logging.ERROR)
        sys.exit(2)
    except SystemExit as end:
        # With 0, 2 or any other: it means none of ours.
        lines.say(f"The app's import ended the process: sys.exit({end.code!r}).", logging.ERROR)
        sys.exit(1)
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        hints.say(str(error))
        sys.exit(1)


def load(found: Found) -> Any:
    """Import the app; one that a function makes is made. Raises Wrong, and whatever the import raises."""
    try:
        module = import_module(found.module)
    except ModuleNotFoundError as error:
        # And not a module that the app itself lacks.
        if f"{found.module}.".startswith(f"{error.name}."):
            named = f"APP={found.module}:{found.attribute}"
            raise Wrong(f"{named} is wrong: there is no module {found.module} in {Path.cwd()}.") from None
        raise
    if found.attribute:
        if not hasattr(module, found.attribute):
            raise Wrong(f"APP is wrong: the module {found.module} has no {found.attribute}.")
        return made(getattr(module, found.attribute))
    named_so = [getattr(module, name, None) for name in NAMES]
    for value in (*named_so, *vars(module).values()):
        if is_fastapi(value):
            return value
    raise Wrong(f"There is no FastAPI app in {module.__file__}. APP names it: APP={found.module}:name.")


def is_fastapi(value: Any) -> bool:
    return any(f"{kind.__module__}.{kind.__name__}" == "fastapi.applications.FastAPI" for kind in type(value).__mro__)


def made(value: Any) -> Any:
    """The app itself, where `value` is a function that needs nothing to make it."""
    if not inspect.isfunction(value) or inspect.iscoroutinefunction(value):
        return value
    try:
        inspect.signature(value).bind()
    except TypeError:
        return value
    return value()
