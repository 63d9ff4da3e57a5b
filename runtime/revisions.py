"""What the app's own Alembic knows of its revisions, as JSON: install.py has the app's Python run this text.

In a process of its own, so that a configuration that can't be read is one sentence. Revisions are run, as Alembic runs
them. One may import the app, whose settings are not there while an image is built: then they are read instead.
"""

import ast
import contextlib
import json
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def main() -> int:
    # What a revision prints is no answer.
    with os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace") as answer:
        os.dup2(2, 1)
        try:
            print(json.dumps(known()), file=answer)
        except (Exception, SystemExit) as error:
            print(*"".join(traceback.format_exception_only(type(error), error)).split(), file=answer)
            return 1
    return 0


def known() -> dict[str, Any]:
    """As runtime/environment.py has it; {} without Alembic, or where nothing is configured."""
    try:
        from alembic.config import Config
        from alembic.script import ScriptDirectory
    except ModuleNotFoundError as error:
        if error.name == "alembic":
            return {}
        raise
    config = Config("alembic.ini" if os.path.exists("alembic.ini") else None)
    if os.path.exists("pyproject.toml") and hasattr(config, "get_alembic_option"):
        config = Config(config.config_file_name, toml_file="pyproject.toml")
    option = getattr(config, "get_alembic_option", config.get_main_option)
    if not option("script_location"):
        return {}
    script = ScriptDirectory.from_config(config)
    folders = script.version_locations or [script.versions]
    try:
        graph = graph_of((one.revision, one.down_revision) for one in script.walk_revisions())
    except (Exception, SystemExit):
        pattern = "**/*.py" if getattr(script, "recursive_version_locations", False) else "*.py"
        files = [file for folder in folders for file in Path(folder).glob(pattern)]
        try:
            graph = graph_of(written(file) for file in files if not file.name.startswith(("__init__", ".#")))
        except Exception:
            graph = {}
        if not graph:
            raise
    heads = graph.keys() - {parent for parents in graph.values() for parent in parents}
    # Of several folders the first: Alembic itself wants to be told.
    return {"heads": sorted(heads), "graph": graph, "versions": os.path.relpath(folders[0])}


def graph_of(revisions: Iterable[tuple[str, Any]]) -> dict[str, list[str]]:
    """Each revision's parents. Raises KeyError for one that isn't there."""
    graph = {name: [above] if isinstance(above, str) else list(above or ()) for name, above in revisions}
    for parent in {parent for parents in graph.values() for parent in parents}:
        graph[parent]
    return graph


def written(file: Path) -> tuple[str, Any]:
    """Its name, and its parents', where both are written down as they are. Raises an error where they are not."""
    said: dict[str, ast.expr] = {}
    for line in ast.parse(file.read_bytes()).body:
        if isinstance(line, ast.Assign):
            said |= {ast.unparse(name): line.value for name in line.targets}
        elif isinstance(line, ast.AnnAssign) and line.value:
            said[ast.unparse(line.target)] = line.value
    return ast.literal_eval(said["revision"]), ast.literal_eval(said["down_revision"])


if __name__ == "__main__":
    code = main()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    # A revision may import the app, which may start a thread that goes on for ever.
    os._exit(code)
