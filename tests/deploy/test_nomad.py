"""deploy/nomad: the job file's numbers. No Nomad is at hand that could run it."""

import re
from typing import Any

import pytest
import yaml

from tests.conftest import REPO

JOB = (REPO / "deploy/nomad/app.nomad.hcl").read_text()
COMPOSE: Any = yaml.safe_load((REPO / "compose.yaml").read_text())


def default(text: str) -> str:
    """A setting's value where nobody sets it."""
    return re.sub(r"\$\{\w+:-(.*?)\}", r"\1", text)


@pytest.mark.parametrize(("task", "service"), [("app", COMPOSE["x-slot"]), ("migrate", COMPOSE["services"]["migrate"])])
def test_numbers_are_those_of_compose(task: str, service: dict[str, Any]) -> None:
    """User, memory, processes, /tmp, grace and ports."""
    text = JOB.partition(f'task "{task}"')[2].partition("    task ")[0]

    def said(pattern: str) -> list[str]:
        return re.findall(rf"\b{pattern}$", text, re.MULTILINE)

    assert said(r'user += "(.*)"') == [service["user"]]
    assert [f"{one}m" for one in said(r"memory = (\d+) \}")] == [default(service["mem_limit"])]
    assert said(r"pids_limit +=+ (\d+)") == [str(service["pids_limit"])]
    assert said(r"size = (\d+) \}") == [str(64 << 20)]
    assert "size=${TMP_SIZE:-64m}" in COMPOSE["x-slot"]["tmpfs"][0]
    if task == "app":
        assert said(r'kill_timeout = "(.*)"') == [default(service["stop_grace_period"])]
        assert re.findall(r"to = (\d+)", JOB) == ["8000", "8001"]
    else:
        assert said(r'command +=+ "(.*)"') == service["command"]
