"""What a crontab says, and when its jobs are due."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from runtime import crontab
from runtime.limits import Wrong


def read(folder: Path, text: str) -> list[crontab.Job]:
    (folder / "crontab").write_text(text)
    return crontab.read(folder / "crontab")


def coming(job: crontab.Job, after: str, count: int = 3) -> list[str]:
    """The next times after that, as they are there."""
    found, moment = [], datetime.fromisoformat(after).replace(tzinfo=UTC).timestamp()
    for _ in range(count):
        moment = job.next(moment)
        found.append(datetime.fromtimestamp(moment, job.zone).strftime("%a %Y-%m-%d %H:%M %Z"))
    return found


@pytest.mark.parametrize(
    ("schedule", "times"),
    [
        ("* * * * *", ["Thu 2026-01-01 00:01", "Thu 2026-01-01 00:02"]),
        ("*/20 * * * *", ["Thu 2026-01-01 00:20", "Thu 2026-01-01 00:40", "Thu 2026-01-01 01:00"]),
        ("5,10-12 0 * * *", ["Thu 2026-01-01 00:05", "Thu 2026-01-01 00:10", "Thu 2026-01-01 00:11"]),
        ("30 9 * * mon-wed/2", ["Mon 2026-01-05 09:30", "Wed 2026-01-07 09:30", "Mon 2026-01-12 09:30"]),
        ("0 0 * * 7", ["Sun 2026-01-04 00:00", "Sun 2026-01-11 00:00"]),
        ("0 0 * * 5-7", ["Fri 2026-01-02 00:00", "Sat 2026-01-03 00:00", "Sun 2026-01-04 00:00"]),
        ("0 0 * * */2", ["Sat 2026-01-03 00:00", "Sun 2026-01-04 00:00", "Tue 2026-01-06 00:00"]),
        ("0 0 29 FEB *", ["Tue 2028-02-29 00:00", "Sun 2032-02-29 00:00"]),
        # Both days named: one of them is enough. One with `*`: both must be right.
        ("0 0 13 * fri", ["Fri 2026-01-02 00:00", "Fri 2026-01-09 00:00", "Tue 2026-01-13 00:00"]),
        ("0 0 */2 * fri", ["Fri 2026-01-09 00:00", "Fri 2026-01-23 00:00"]),
        ("10/25 1 * * *", ["Thu 2026-01-01 01:10", "Thu 2026-01-01 01:35", "Fri 2026-01-02 01:10"]),
        ("@hourly", ["Thu 2026-01-01 01:00", "Thu 2026-01-01 02:00"]),
        ("@weekly", ["Sun 2026-01-04 00:00", "Sun 2026-01-11 00:00"]),
        ("@yearly", ["Fri 2027-01-01 00:00"]),
    ],
)
def test_when_it_is_due(tmp_path: Path, schedule: str, times: list[str]) -> None:
    """As cron's own manual has it."""
    [job] = read(tmp_path, f"{schedule} true\n")
    assert coming(job, "2026-01-01T00:00", len(times)) == [f"{one} UTC" for one in times]


@pytest.mark.parametrize(
    ("schedule", "after", "times"),
    [
        # The clocks went forward at 02:00, and back at 03:00.
        ("30 2 * * *", "2026-03-28T12:00", ["Sun 2026-03-29 03:30 CEST", "Mon 2026-03-30 02:30 CEST"]),
        ("30 2 * * *", "2026-10-24T12:00", ["Sun 2026-10-25 02:30 CEST", "Mon 2026-10-26 02:30 CET"]),
        ("*/30 * * * *", "2026-03-29T00:01", ["Sun 2026-03-29 01:30 CET", "Sun 2026-03-29 03:00 CEST"]),
        (
            "30 * * * *",
            "2026-10-25T00:00",
            ["Sun 2026-10-25 02:30 CEST", "Sun 2026-10-25 02:30 CET", "Sun 2026-10-25 03:30 CET"],
        ),
    ],
)
def test_clocks_that_change(tmp_path: Path, schedule: str, after: str, times: list[str]) -> None:
    """A time of day is neither left out nor twice; what goes by the clock that runs on goes on."""
    [job] = read(tmp_path, f"CRON_TZ=Europe/Berlin\n{schedule} true\n")
    assert coming(job, after, len(times)) == times


def test_variables_hold_from_their_line_on(tmp_path: Path) -> None:
    """The time zone too; without one it is the container's."""
    text = "0 9 * * * first\nCRON_TZ=Asia/Tokyo\nNAME = 'a b'\n0 9 * * * second --at \\%H \n# 0 9 * * * no\n"
    first, second = read(tmp_path, text)
    assert (first.command, first.environment) == ("first", {})
    assert (second.command, second.environment) == ("second --at %H", {"NAME": "a b"})
    assert coming(first, "2026-01-01T00:00", 1) == ["Thu 2026-01-01 09:00 UTC"]
    assert coming(second, "2026-01-01T00:01", 1) == ["Fri 2026-01-02 09:00 JST"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("60 * * * * true", "60 is no minute: it goes from 0 to 59."),
        ("* * 0 * * true", "0 is no day: it goes from 1 to 31."),
        ("5-1 * * * * true", "5-1 is no minute: it goes from 0 to 59."),
        ("*/0 * * * * true", "*/0 is no minute: it goes from 0 to 59."),
        ("* * * * funday true", "funday is no weekday: it goes from 0 to 7."),
        ("* * L * * true", "l is no day: it goes from 1 to 31."),
        ("0 0 30 2 * true", "0 0 30 2 * never comes."),
        ("* * * * *", "it needs five fields, minute hour day month weekday, and a command."),
        ("*/5 * * * * * true", "it has a sixth field: a minute is the shortest there is."),
        ("@reboot true", "@reboot has no place here: what runs once before the app is MIGRATE's."),
        ("@often true", "@often is none of @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly."),
        ("0 0 * * * date +%F", "write `%` as `\\%`: to cron it ends the command."),
        ("CRON_TZ=Mars/Olympus", "Mars/Olympus is no time zone that the image knows (its package tzdata)."),
    ],
)
def test_mistake_is_one_sentence(tmp_path: Path, line: str, words: str) -> None:
    """With its line."""
    with pytest.raises(Wrong) as wrong:
        read(tmp_path, f"0 0 * * * true\n\n{line}\n")
    assert str(wrong.value) == f"crontab, line 3, is wrong: {words}"


def test_file_that_is_missing_or_has_a_line_twice(tmp_path: Path) -> None:
    """Either is a sentence."""
    with pytest.raises(Wrong, match=r"crontab is wrong: it has one line twice\."):
        read(tmp_path, "0 0 * * * true\n0 0 * * * true\n")
    with pytest.raises(Wrong, match=r"The crontab /.*/none can't be read: .*No such file"):
        crontab.read(tmp_path / "none")
