"""deploy/kubernetes as Kustomize reads it."""

from pathlib import Path
from typing import Any

import yaml

from tests.programs import beside
from tests.stack.stacks import run


def render(folder: Path) -> list[dict[str, Any]]:
    """What Kustomize makes of a folder."""
    found = yaml.safe_load_all(run(beside("kubectl"), "kustomize", str(folder)))
    return [one for one in found if one]
