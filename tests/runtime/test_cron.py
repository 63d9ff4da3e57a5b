"""What runs a crontab: what it does with what came due while none ran, and how it ends."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runtime import cron
from tests.conftest import REPO

PROGRAM = """
import sys
from pathlib import Path
from runtime import cron
cron.FOLDER = Path(sys.argv.pop(1))
sys.exit(cron.main())
"""


class Crontab:
    """A crontab in a folder, and what of it was run before."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "crontab"
        self.processes: list[subprocess.Popen[str]] = []

    def write(self, text: str, **known: Any) -> None:
        self.file.write_text(text)
        [(job, record)] = known.pop("jobs", {"": {}}).items()
        jobs = {f"{job} UTC": record} if job else {}
        cron.FOLDER = self.folder
        cron.Cron(self.file).file.write_text(json.dumps({**known, "jobs": jobs}))

    def start(self) -> None:
        """Begin, and wait until it has; its log is the folder's, each one's of its own."""
        argv, log = (sys.executable, "-c", PROGRAM, str(self.folder), str(self.file)), self.log(len(self.processes))
        with log.open("w") as file:
            self.processes.append(subprocess.Popen(argv, cwd=REPO, stderr=file, text=True))
        until(lambda: "\n" in log.read_text())

    def log(self, number: int) -> Path:
        return self.folder / f"log-{number}"

    def end(self, number: int = 0) -> str:
        """What it printed, after it was told to stop."""
        process = self.processes[number]
        process.terminate()
        assert process.wait(20) == 0
        return self.log(number).read_text()

    def rows(self) -> list[dict[str, Any]]:
        argv = (sys.executable, "-c", PROGRAM, str(self.folder), str(self.file), "--list")
        found: list[dict[str, Any]] = json.loads(subprocess.run(argv, cwd=REPO, check=True, capture_output=True).stdout)
        return found

    def lines(self, name: str) -> list[str]:
        file = self.folder / name
        return file.read_text().split() if file.exists() else []


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crontab]:
    monkeypatch.setattr(cron, "FOLDER", tmp_path)
    made = Crontab(tmp_path)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def minute(before: int) -> float:
    """The minute that began so many before this one."""
    return (int(time.time()) // 60 - before) * 60.0


def shown(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%SZ}"


def test_what_came_due_in_between_runs_once_each(table: Crontab) -> None:
    """One after the other, in order, and no more of it when the next one begins."""
    command = f"echo $STACK_DUE >> {table.folder}/ran"
    now = minute(0)
    table.write(f"* * * * * {command}\n", jobs={f"* * * * * {command}": {"seen": now - 180}}, until=now - 180)
    said = ""
    for number in range(2):
        table.start()
        until(lambda: len(table.lines("ran")) >= 3)
        said += table.end(number)
    ran = table.lines("ran")
    assert ran[:3] == [shown(now - 120), shown(now - 60), shown(now)]
    assert len(set(ran)) == len(ran)
    assert said.count("is made up for") >= 2


def test_job_that_is_new_runs_what_came_due_since_the_release_before(table: Crontab) -> None:
    """It has taken that one's place."""
    table.write(f"* * * * * echo $STACK_DUE >> {table.folder}/ran\n", until=minute(1) + 1)
    table.start()
    until(lambda: table.lines("ran"))
    table.end()
    assert table.lines("ran")[0] == shown(minute(0)) or len(table.lines("ran")) > 1


def due_at_once(table: Crontab, job: str) -> None:
    table.write(f"* * * * * {job}\n", jobs={f"* * * * * {job}": {"seen": minute(1)}}, until=minute(1))
    table.start()


def blocked(draft: Path) -> bool:
    """Put a folder in the place of the draft, unless one is being written."""
    try:
        draft.mkdir()
    except FileExistsError:
        return False
    return True


def test_disk_that_takes_nothing(table: Crontab) -> None:
    """What runs goes on, and it is said. Once there is room again all is as before."""
    due_at_once(table, f"sleep 2; touch {table.folder}/done")
    record = cron.Cron(table.file).file
    until(lambda: '"began"' in record.read_text())
    in_the_way = record.with_suffix(".new")
    until(lambda: blocked(in_the_way))
    until((table.folder / "done").exists)
    until(lambda: "what ran can't be written down: " in table.log(0).read_text())
    assert table.processes[0].poll() is None
    in_the_way.rmdir()
    table.end()
    assert table.rows()[0]["code"] == 0


def test_pipe_whose_reader_has_gone(table: Crontab) -> None:
    """Its writer ends, as in any shell."""
    due_at_once(table, f"while :; do echo x; done | head -1; touch {table.folder}/done")
    until((table.folder / "done").exists)
    table.end()


def test_nothing_runs_of_the_past_at_first(table: Crontab) -> None:
    """Nobody has run these jobs before."""
    table.file.write_text(f"0 0 1 1 * touch {table.folder}/ran")
    table.start()
    [row] = table.rows()
    assert (row["began"], row["trouble"], row["running"]) == (None, None, False)
    assert row["next"].endswith("-01-01 00:00:00+00:00")
    table.end()


def test_what_came_due_long_ago_is_left_out(table: Crontab) -> None:
    """After a day without the machine, no thousand runs."""
    job = f"0 * * * * touch {table.folder}/ran"
    table.write(job, jobs={job: {"seen": minute(0) - 86_400}}, until=0)
    table.start()
    until(lambda: table.lines("ran") == [] and table.rows()[0]["left_out"])
    assert "is left out" in table.end()


def test_told_to_stop_it_waits_for_what_runs(table: Crontab) -> None:
    """And begins nothing more."""
    job = f"* * * * * echo > {table.folder}/began; sleep 2; echo done > {table.folder}/done"
    now = minute(0)
    table.write(job, jobs={job: {"seen": now - 180}}, until=now - 180)
    table.start()
    until((table.folder / "began").exists)
    assert table.rows()[0]["running"]
    assert table.end().count("is done") == 1
    assert table.lines("done") == ["done"]
    assert table.rows()[0]["code"] == 0


def test_one_that_is_killed_says_so_and_runs_nothing_twice(table: Crontab) -> None:
    """What was begun may have done its work."""
    job = f"0 0 1 1 * echo >> {table.folder}/began; sleep 3"
    table.write(job, jobs={job: {"seen": minute(0), "due": minute(1), "began": minute(1), "ended": None}}, until=0)
    table.start()
    until(lambda: table.rows()[0]["ended"])
    assert table.rows()[0]["trouble"] == "was cut off"
    assert "was cut off" in table.end()
    assert table.lines("began") == []


@pytest.mark.parametrize(("command", "code"), [("exit 3", 3), ("kill -9 $$", -9)])
def test_job_that_fails_is_said(table: Crontab, command: str, code: int) -> None:
    """By its exit code, or the signal that ended it."""
    job = f"* * * * * {command}"
    table.write(job, jobs={job: {"seen": minute(0) - 60}}, until=0)
    table.start()
    until(lambda: table.rows()[0]["ended"])
    assert (table.rows()[0]["code"], table.rows()[0]["trouble"]) == (code, f"ended with {code}")
    assert f"cron: `{command}` ended with {code} after" in table.end()


def test_two_never_run_the_same_jobs(table: Crontab) -> None:
    """The second waits for the end of the first, and ends at once when it is told to."""
    job = f"* * * * * echo $STACK_DUE >> {table.folder}/ran; sleep 1"
    now = minute(0)
    table.write(job, jobs={job: {"seen": now - 180}}, until=now - 180)
    table.start()
    table.start()
    until(lambda: len(table.lines("ran")) >= 3)
    assert len(set(table.lines("ran"))) == len(table.lines("ran"))
    table.end(1)
    table.end(0)


def test_jobs_get_the_signals(table: Crontab) -> None:
    """What is blocked here is not for them."""
    job = f"* * * * * grep SigBlk /proc/self/status > {table.folder}/ran"
    table.write(job, jobs={job: {"seen": minute(0) - 60}}, until=0)
    table.start()
    until(lambda: len(table.lines("ran")) == 2)
    assert int(table.lines("ran")[1], 16) == 0
    table.end()


def test_folder_that_cannot_be_written_to_is_a_sentence(table: Crontab) -> None:
    """Before anything runs."""
    table.file.write_text("* * * * * true\n")
    argv = (sys.executable, "-c", PROGRAM, "/nowhere", str(table.file), "--check")
    done = subprocess.run(argv, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 2
    assert "/nowhere is no volume that this user may write to" in done.stderr
