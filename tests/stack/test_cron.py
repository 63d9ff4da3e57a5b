"""Jobs on a schedule, of the app's own crontab: each run once, whatever is deployed, and what went wrong is said."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.stack.backups import ok
from tests.stack.beside import Beside, brought_up
from tests.stack.jobs import QUEUE, REDIS, TABLES
from tests.stack.stacks import run, wait_until

# The app has a queue in Redis, too.
OVERRIDE = f"{QUEUE}  cron: {{extends: {{file: process.yaml, service: cron}}, mem_limit: 128m}}\n"
# Of what the jobs wrote down, in seconds since the epoch.
BEATS = """
SELECT json_agg(b ORDER BY due) FROM (
    SELECT job, release, extract(epoch FROM due)::int AS due, extract(epoch FROM began_at)::float AS began,
        extract(epoch FROM ended_at)::float AS ended
    FROM beats
) AS b
"""


class Jobs(Beside):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "cron", "jobs", REDIS, APP_DIR="../jobs", APP="jobs.web:app", MIGRATE=TABLES)
        (folder / "compose.override.yaml").write_text(OVERRIDE)
        self.crontab = self.app / "crontab"
        # A job for a minute soon, said as the clock in Kiritimati has it.
        self.there = int(time.time()) // 60 * 60 + 300
        local = datetime.fromtimestamp(self.there + 14 * 3600, UTC)
        self.crontab.write_text(f"{self.crontab.read_text()}{local:%M %H %d %m} * python -m jobs.beat there 0\n")

    def jobs(self) -> dict[str, dict[str, Any]]:
        """What `./stack cron` says, by the jobs' names."""
        return {one["command"].split()[3]: one for one in json.loads(ok(self.stack("cron", "--json")))}

    def log(self) -> str:
        return run("docker", "logs", self.container("cron"), check=False)

    def beats(self, job: str) -> list[dict[str, Any]]:
        return [one for one in json.loads(self.psql(BEATS) or "[]") if one["job"] == job]

    def release(self) -> str:
        return (self.app / "release.txt").read_text().strip()

    def slow_runs(self) -> bool:
        return any(one["ended"] is None for one in self.beats("slow"))

    def check(self) -> None:
        """Each was finished; the quick one ran once in each minute, the slow one never beside itself."""
        quick, slow = self.beats("quick"), self.beats("slow")
        assert [one["due"] for one in quick] == list(range(quick[0]["due"], quick[-1]["due"] + 60, 60))
        assert len({one["due"] for one in slow}) == len(slow)
        assert all(one["ended"] and one["ended"] <= other["began"] for one, other in pairwise(slow))


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    with brought_up(Jobs(tmp_path_factory.mktemp("cron") / "stack")) as made:
        yield made


def test_list_has_each_job(jobs: Jobs) -> None:
    """When each ran and how it ended, and when it will, by the crontab's own clock."""
    wait_until(lambda: jobs.jobs()["failing"]["ended"] is not None)
    found = jobs.jobs()
    assert (found["quick"]["code"], found["quick"]["trouble"]) == (0, None)
    assert (found["failing"]["code"], found["failing"]["trouble"]) == (3, "ended with 3")
    weekly = datetime.fromisoformat(found["weekly"]["next"])
    assert (weekly.strftime("%a %H:%M"), weekly.utcoffset()) == ("Mon 09:30", timedelta(hours=14))
    assert found["weekly"]["began"] is None
    table = ok(jobs.stack("cron"))
    assert "python -m jobs.beat failing 0; exit 3\n" in table
    assert ", ended with 3; next " in table
    assert "ended with 3 after" in jobs.log()


def test_job_that_is_due_while_it_runs_is_left_out(jobs: Jobs) -> None:
    """It is said, in the log and in the list."""
    wait_until(lambda: "`python -m jobs.beat slow 75` is left out" in jobs.log())
    assert "was left out at" in jobs.jobs()["slow"]["trouble"]
    jobs.check()


def test_what_comes_due_while_the_old_one_finishes_is_made_up_for(jobs: Jobs) -> None:
    """Plain Compose takes another one's place: the job under way ends, and no other misses its minute."""
    wait_until(lambda: not jobs.slow_runs())
    wait_until(jobs.slow_runs)
    began = jobs.beats("slow")[-1]["began"]
    jobs.compose("up", "--detach", "--no-deps", "--force-recreate", "cron")
    # It ran on past the next minute, for which its container began nothing.
    assert time.time() > began + 75
    wait_until(lambda: "`python -m jobs.beat quick 0` is done" in jobs.log())
    assert "`python -m jobs.beat quick 0` is made up for" in jobs.log()
    jobs.check()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_deploy_waits_for_the_job_under_way(jobs: Jobs) -> None:
    """It ends with the release that it began with, and no run is lost or doubled."""
    wait_until(jobs.slow_runs)
    jobs.commit()
    said = ok(jobs.stack("deploy"))
    assert "Cron: `python -m jobs.beat failing 0; exit 3` ended with 3. `./stack cron` shows the jobs.\n" in said
    wait_until(lambda: jobs.beats("quick")[-1]["release"] == jobs.release())
    jobs.check()


def test_time_of_day_is_the_crontabs(jobs: Jobs) -> None:
    """CRON_TZ names the place whose clock it is."""
    wait_until(lambda: len(jobs.beats("there")) == 1, 300)
    assert jobs.beats("there")[0]["due"] == jobs.there


@pytest.mark.long
def test_rollback_takes_the_crontab_along(jobs: Jobs) -> None:
    """Jobs of before run again, and no run is lost or doubled."""
    wait_until(jobs.slow_runs)
    ok(jobs.stack("rollback"))
    wait_until(lambda: jobs.beats("quick")[-1]["release"] != jobs.release())
    jobs.check()


def test_mistake_is_refused_before_anything_is_touched(jobs: Jobs) -> None:
    """One sentence with its line."""
    before, text = jobs.containers(), jobs.crontab.read_text()
    jobs.crontab.write_text(f"{text}61 * * * * true\n")
    jobs.commit()
    done = jobs.stack("deploy")
    jobs.crontab.write_text(text)
    assert done.returncode == 2
    line = len(text.splitlines()) + 1
    assert f"crontab, line {line}, is wrong: 61 is no minute: it goes from 0 to 59.\nNothing was rep" in done.stderr
    after = jobs.containers()
    assert {service: one["Id"] for service, one in after.items()} == {name: one["Id"] for name, one in before.items()}


def test_down_leaves_nothing(jobs: Jobs) -> None:
    """It is Compose's own service."""
    jobs.compose("down")
    assert jobs.left_behind() == ""
