"""What becomes of a hook that hangs, fails or can't be run."""

import subprocess
from pathlib import Path

import pytest

from ops.release import hooks, releases
from ops.run import Stop
from tests.configs import config


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(hooks, "FOLDER", tmp_path)
    monkeypatch.setattr(releases, "current", lambda: "before")
    return tmp_path


def write(file: Path, text: str, mode: int = 0o755) -> None:
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(mode)


def test_without_one_nothing_runs() -> None:
    """The folder may be empty, or not there."""
    made = hooks.Hooks(config(), "deploy")
    for name in hooks.NAMES:
        made.run(name)


def test_one_that_hangs_is_ended(folder: Path) -> None:
    """It, and what it has started."""
    write(folder / "before-migrate", f"sleep 6543 & echo $! > {folder}/pid; wait")
    made = hooks.Hooks(config(hook_timeout=5), "deploy")
    with pytest.raises(Stop, match=r"^hooks/before-migrate did not end within HOOK_TIMEOUT=5 s, and was ended\.$"):
        made.run(hooks.BEFORE)
    pid = (folder / "pid").read_text().strip()
    state = subprocess.run(["ps", "-o", "stat=", pid], capture_output=True, text=True).stdout
    # A container's PID 1 may not reap it.
    assert state.strip()[:1] in ("", "Z")


def test_what_it_started_is_ended_too(folder: Path) -> None:
    """Also what takes no SIGTERM, and what outlives the one that started it."""
    write(folder / "child", "trap '' TERM; sleep 6544; sleep 6544")
    write(folder / "before-migrate", f"{folder}/child & echo $! > {folder}/pid; wait")
    made = hooks.Hooks(config(hook_timeout=5), "deploy")
    with pytest.raises(Stop, match="did not end within"):
        made.run(hooks.BEFORE)
    state = Path("/proc", (folder / "pid").read_text().strip(), "stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize("failure", [Stop("no"), KeyboardInterrupt()])
def test_last_one_runs_after_a_failure_or_an_interruption(folder: Path, failure: BaseException) -> None:
    """What the first one did is its to undo. Its own failure hides nothing."""
    write(folder / "after-failed-deploy", f"echo $1 > {folder}/ran; exit 1")
    made = hooks.Hooks(config(), "deploy")
    with pytest.raises(type(failure)), made.around():
        raise failure
    assert (folder / "ran").read_text() == "deploy\n"


def test_one_that_cannot_be_run_is_refused(folder: Path) -> None:
    """Before anything is begun."""
    write(folder / "after-deploy", "true", 0o644)
    with pytest.raises(Stop) as stop:
        hooks.Hooks(config(), "deploy")
    assert (str(stop.value), stop.value.code) == (
        "hooks/after-deploy is not executable: chmod +x hooks/after-deploy",
        2,
    )


def test_one_without_an_interpreter_has_failed(folder: Path) -> None:
    """As one that ends with another code than 0."""
    (folder / "before-migrate").write_text("#!/nowhere/sh\n")
    (folder / "before-migrate").chmod(0o755)
    with pytest.raises(Stop, match=r"hooks/before-migrate can't be run: No such file or directory\."):
        hooks.Hooks(config(), "deploy").run(hooks.BEFORE)


def test_name_that_nothing_runs_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A program; what others read, a library say, is none."""
    write(folder / "after_deploy", "true")
    write(folder / "lib.sh", "true", 0o644)
    hooks.Hooks(config(), "deploy")
    said = "hooks/after_deploy is none of before-migrate, after-deploy, after-failed-deploy: nothing runs it.\n"
    assert capsys.readouterr().err == said
