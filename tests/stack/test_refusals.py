"""What `./stack up` refuses: each with a sentence that says what to do, and nothing half-started left behind."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.machine import checks, install
from ops.run import Stop
from tests.conftest import NOBODY, REPO
from tests.stack.stacks import Clone, run


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("WORKERS", "many", "WORKERS=many is wrong: a whole number"),
        ("DRAIN_SECONDS", "40", "STOP_GRACE_SECONDS=30 is wrong: DRAIN_SECONDS=40 needs at least 44."),
        ("DEPLOY_TIMEOUT", "2m", "DEPLOY_TIMEOUT=2m is wrong: a whole number of seconds."),
        ("DOMAIN", "https://example.com", "DOMAIN=https://example.com is wrong: a host name"),
        ("HTTPS_PORT", "99999", "HTTPS_PORT is wrong: "),
        ("APP_MEMORY", "much", "APP_MEMORY is wrong: "),
        ("MIGRATE", "alembic 'upgrade", "MIGRATE=alembic 'upgrade is wrong: a command, each quote closed."),
        ("BODY_LIMIT", "250000000", "BODY_LIMIT=250000000 is wrong: /tmp, where uploads are kept, has 64 MiB."),
        (
            "TMP_SIZE",
            "600m",
            "around them (TMP_SIZE=600m) are 766 MiB, and APP_MEMORY is 512 MiB. Set APP_MEMORY=766m.",
        ),
        ("BACKUP_FULL", "0 3 * * 0", "BACKUP_FULL=0 3 * * 0 is wrong: days of the week by name, as in mon-fri."),
        ("BACKUP_FULL", "0 3 31 feb *", "BACKUP_FULL=0 3 31 feb * is wrong: there is no such day."),
        ("BACKUP_NETWORK", "nosuch", "BACKUP_S3_KEYS or BACKUP_NETWORK is wrong:"),
        ("BACKUP_S3_KEYS", "nosuch", "BACKUP_S3_KEYS or BACKUP_NETWORK is wrong:"),
        ("BACKUP_RATE", "fast", "BACKUP_RATE=fast is wrong: whole MB a second (0 for as fast as it goes), 0 to 1000."),
        ("BACKUP_S3_BUCKET", "mine", "BACKUP_S3_KEYS must name a file with ACCESS_KEY_ID, SECRET_ACCESS_KEY, PASSWORD"),
        ("PYTHON_IMAGE", "no-such-image-anywhere:1", "PYTHON_IMAGE=no-such-image-anywhere:1 can't be pulled"),
    ],
)
def test_wrong_setting(stopped: Clone, setting: str, value: str, sentence: str) -> None:
    """A sentence, exit code 2 (an image that isn't there: 1), and nothing is left running."""
    done = stopped.stack("up", **{setting: value})
    passed_over = ("==>", "    ", "This shell sets ")
    last = [line for line in done.stderr.splitlines() if not line.startswith(passed_over)]
    assert sentence in last[0]
    assert done.returncode == (1 if setting == "PYTHON_IMAGE" else 2)
    assert stopped.left_behind() == ""


@pytest.mark.parametrize("setting", ["HTTP_PORT", "HTTPS_PORT"])
def test_port_taken(stopped: Clone, setting: str) -> None:
    """A port that another program listens on is named, with the setting that moves it."""
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = stopped.stack("up", **{setting: port})
    assert f"Port {port} is taken by another program: stop that, or set {setting} in .env." in done.stderr
    assert done.returncode == 1
    assert stopped.left_behind() == ""


def test_migration_that_fails_stops_the_start(stopped: Clone) -> None:
    """Evidence, exit code 1, and nothing is left running."""
    broken = stopped.folder / "migrations/versions/9999_broken.py"
    broken.write_text(
        'revision = "9999"\ndown_revision = "0001"\ndef upgrade():\n    raise RuntimeError("as planned")\n'
    )
    try:
        done = stopped.stack("up")
    finally:
        broken.unlink()
    assert done.returncode == 1
    assert "RuntimeError: as planned" in done.stderr
    assert stopped.left_behind() == ""


def test_engine_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """An older engine than the stack needs is named with its version."""
    monkeypatch.setitem(install.MINIMUM, "Docker Engine", (99, 0))
    with pytest.raises(Stop, match=r"Docker Engine \d+\.\d+.* is too old: this needs 99\.0 or newer"):
        install.ensure_docker()


def test_disk_nearly_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little room is said before anything is built."""
    monkeypatch.setattr(checks, "DISK_GB", 10**6)
    with pytest.raises(Stop, match=r"The disk under /.* has [\d.]+ GB left, and a build needs 1000000"):
        checks.check_room()


@pytest.fixture
def reachable(tmp_path: Path) -> Iterator[Path]:
    """The command where any user may read it."""
    folder = Path("/tmp") / f"stack-of-nobody-{os.getpid()}"  # noqa: S108 - pytest's folders are closed to others
    folder.mkdir()
    for part in ("stack", "ops", "runtime", "offline", "compose.yaml", "traefik", ".env.example"):
        (shutil.copytree if (REPO / part).is_dir() else shutil.copy)(REPO / part, folder / part)
    run("chmod", "-R", "a+rX", str(folder))
    yield folder
    shutil.rmtree(folder)


def python_for_anyone() -> str:
    """A Python that other users may run: this one may be in a home that is closed."""
    return shutil.which("python3", path="/usr/bin") or sys.executable


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.parametrize(
    ("docker", "sentence"),
    [(True, "You may not use Docker here"), (False, "No Docker engine answers, and it takes root")],
)
def test_neither_root_nor_docker(reachable: Path, tmp_path: Path, docker: bool, sentence: str) -> None:
    """A user who may not use Docker, or has none, is told what to do."""
    path = os.environ["PATH"] if docker else str(tmp_path)
    done = subprocess.run(
        [python_for_anyone(), "stack", "up"],
        cwd=reachable,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        env={"PATH": path, "HOME": str(reachable)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert sentence in done.stderr
    assert done.returncode == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="as root")
def test_no_way_to_get_docker(reachable: Path, tmp_path: Path) -> None:
    """Where there is neither Docker nor apt-get the sentence leads to the manual."""
    argv = [
        sys.executable,
        "-c",
        "from pathlib import Path; import sys; sys.path.insert(0, '.')\n"
        "from offline import engine; engine.ROOT = Path('/nonexistent')\n"
        "import runpy; sys.argv = ['stack', 'up']; runpy.run_path('stack', run_name='__main__')",
    ]
    done = subprocess.run(argv, cwd=reachable, env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60)
    assert "Docker can't be had on this machine" in done.stderr
    assert "https://docs.docker.com/engine/install/" in done.stderr
    assert done.returncode == 1


def test_file_that_can_not_be_read(stopped: Clone) -> None:
    """An error of the machine's, a full disk for one, is a sentence too."""
    listed = stopped.folder / ".stack/releases.json"
    listed.unlink(missing_ok=True)
    listed.mkdir(parents=True)
    done = stopped.stack("releases")
    listed.rmdir()
    assert (done.returncode, done.stderr) == (1, f"{listed}: Is a directory\n")


def test_wrong_usage() -> None:
    """An unknown verb or option is exit code 2."""
    for arguments in (["sideways"], ["up", "--fast"], []):
        done = subprocess.run(
            [sys.executable, "stack", *arguments], cwd=REPO, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 2
