"""A crontab, in the form of cron's own manual, and when each of its jobs is due."""

import os
import re
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, tzinfo
from itertools import product
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from .limits import Wrong

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
# Each field's name, its least and greatest number, and its words from the least on. 7 is Sunday, too.
FIELDS = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day", 1, 31, ()),
    ("month", 1, 12, MONTHS),
    ("weekday", 0, 7, DAYS),
)
SHORT = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
VARIABLE = re.compile(r"([A-Za-z_]\w*)\s*=\s*(.*)")
# 29 February comes within eight years, on a given weekday within 40, and what doesn't never does.
HORIZON = 366 * 40


@dataclass(frozen=True)
class Job:
    schedule: str
    command: str
    # The crontab's own, over the container's.
    environment: dict[str, str]
    zone: tzinfo
    # The numbers that each field allows.
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    # Whether a day must be right by both, or by one of the two: by one where neither begins with `*`.
    both: bool
    # Whether it goes by the clock that runs on, and not by a time of day: `*` for the minute or the hour.
    runs_on: bool

    @property
    def name(self) -> str:
        """By which a later release knows it."""
        return f"{self.schedule} {self.command} {self.zone}"

    def next(self, after: float) -> float:
        """When it is due next after that, both in seconds since the epoch. Raises ValueError for what never comes.

        When the clocks go forward, a time of day that is left out counts as so much later. When they go back, one that
        comes twice counts once.
        """
        # From the day before on: one of its times may have become so much later.
        day = datetime.fromtimestamp(after, self.zone).date() - timedelta(days=1)
        for _ in range(HORIZON):
            if self.is_on(day):
                for moment in self.moments(day, after):
                    return moment
            day += timedelta(days=1)
        raise ValueError(self.schedule)

    def is_on(self, day: date) -> bool:
        by_day, by_weekday = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return day.month in self.months and (by_day and by_weekday if self.both else by_day or by_weekday)

    def moments(self, day: date, after: float) -> "list[float]":
        """The first of the day's that comes after that, or none."""
        if not self.runs_on:
            times = (datetime.combine(day, time(*one), self.zone) for one in product(self.hours, self.minutes))
            return sorted(moment for one in times if (moment := one.timestamp()) > after)[:1]
        begin, end = (datetime.combine(one, time(), self.zone).timestamp() for one in (day, day + timedelta(days=1)))
        for moment in range(max(int(begin), int(after) // 60 * 60 + 60), int(end), 60):
            local = datetime.fromtimestamp(moment, self.zone)
            if local.hour in self.hours and local.minute in self.minutes:
                return [moment]
        return []


def read(path: Path) -> list[Job]:
    """The file's jobs. Raises Wrong, with the line, for the first mistake."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Wrong(f"The crontab {path.absolute()} can't be read: {error}.") from None
    jobs, environment, zone_name = [], dict[str, str](), os.environ.get("TZ") or "UTC"
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        try:
            if found := VARIABLE.fullmatch(line):
                name, value = found[1], re.sub(r"^(['\"])(.*)\1$", r"\2", found[2])
                if name == "CRON_TZ":
                    zone_name = value
                    zone(value)
                else:
                    environment[name] = value
                continue
            jobs.append(parse(line, dict(environment), zone(zone_name)))
        except ValueError as error:
            raise Wrong(f"{path.name}, line {number}, is wrong: {error}") from None
    if len({job.name for job in jobs}) < len(jobs):
        raise Wrong(f"{path.name} is wrong: it has one line twice.")
    return jobs


def zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{name} is no time zone that the image knows (its package tzdata).") from None


def parse(line: str, environment: dict[str, str], zone: tzinfo) -> Job:
    """A line that is no variable. Raises ValueError with what is wrong."""
    count = 1 if line.startswith("@") else len(FIELDS)
    words = line.split(None, count)
    schedule, command = " ".join(words[:count]), words[count] if len(words) > count else ""
    if schedule == "@reboot":
        raise ValueError("@reboot has no place here: what runs once before the app is MIGRATE's.")
    if count == 1 and schedule not in SHORT:
        raise ValueError(f"{schedule} is none of {', '.join(SHORT)}.")
    if not command:
        raise ValueError("it needs five fields, minute hour day month weekday, and a command.")
    if re.match(r"[\d*][\d*,/-]*(\s|$)", command):
        raise ValueError("it has a sixth field: a minute is the shortest there is.")
    if re.search(r"(?<!\\)%", command):
        raise ValueError("write `%` as `\\%`: to cron it ends the command.")
    texts = SHORT.get(schedule, schedule).lower().split()
    minutes, hours, days, months, weekdays = map(numbers, texts, FIELDS)
    job = Job(
        *(schedule, command.replace("\\%", "%"), environment, zone, minutes, hours, days, months),
        weekdays=frozenset(number % 7 for number in weekdays),
        both=any(texts[place].startswith("*") for place in (2, 4)),
        runs_on=any(texts[place].startswith("*") for place in (0, 1)),
    )
    try:
        job.next(0)
    except ValueError:
        raise ValueError(f"{schedule} never comes.") from None
    return job


def numbers(text: str, field: tuple[str, int, int, tuple[str, ...]]) -> frozenset[int]:
    """What a field allows. Raises ValueError."""
    name, least, greatest, words = field
    found = set[int]()
    for part in text.split(","):
        match = re.fullmatch(r"(\*|(\w+)(?:-(\w+))?)(?:/(\d+))?", part)
        if not match:
            raise ValueError(f"{part} is no {name}.")
        whole, first, last, step = match.groups()
        begin = least if whole == "*" else number(first, least, words)
        end = number(last, least, words) if last else greatest if whole == "*" or step else begin
        # Every second weekday has Sunday once.
        end = min(end, 6) if words == DAYS and whole == "*" else end
        if begin is None or end is None or not least <= begin <= end <= greatest or step == "0":
            raise ValueError(f"{part} is no {name}: it goes from {least} to {greatest}.")
        found.update(range(begin, end + 1, int(step or 1)))
    return frozenset(found)


def number(text: str, least: int, words: tuple[str, ...]) -> int:
    """What a word or a number stands for; one that is neither is less than any field's."""
    return words.index(text) + least if text in words else int(text) if text.isascii() and text.isdigit() else -1
