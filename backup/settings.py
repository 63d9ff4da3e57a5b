"""The settings of the backup service, from its environment; a wrong one is a sentence before anything starts."""

import os
from pathlib import Path
from typing import Any

from apscheduler.triggers.cron import CronTrigger  # type: ignore[import-not-found]  # not in .venv

from backup.server import Failure, now

SCHEDULES = {"BACKUP_FULL": "0 3 * * sun", "BACKUP_INCREMENTAL": "0 3 * * mon-sat", "BACKUP_VERIFY": "0 5 * * sun"}
NETWORKS = Path("/sys/class/net")
KEYS = Path("/run/secrets/backup-s3")
NAMES = ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "PASSWORD")


class Wrong(Failure):
    """A setting that is wrong: exit code 2."""


def whole(name: str, default: int, least: int, most: int, of: str) -> int:
    """A whole number. Raises Wrong."""
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or not least <= int(text) <= most:
        raise Wrong(f"{name}={text} is wrong: whole {of}, {least} to {most}.")
    return int(text)


def keep_days() -> int:
    return whole("BACKUP_KEEP_DAYS", 14, 1, 3650, "days")


def rate() -> int:
    """MB a second that a backup reads at most; 0 is no limit. Postgres's own most is 1 GB."""
    return whole("BACKUP_RATE", 30, 0, 1000, "MB a second (0 for as fast as it goes)")


def every() -> int:
    """The newest that may be lost with the whole machine, in seconds."""
    return whole("BACKUP_S3_EVERY", 60, 10, 86400, "seconds")


def crontab(setting: str) -> Any:
    """The trigger that the setting describes. Raises Wrong."""
    text = os.environ.get(setting) or SCHEDULES[setting]
    fields = text.split()
    # APScheduler counts days from Monday, cron from Sunday: names leave no doubt.
    if len(fields) == 5 and any(letter.isdigit() for letter in fields[4]):
        raise Wrong(f"{setting}={text} is wrong: days of the week by name, as in mon-fri.")
    try:
        trigger = CronTrigger.from_crontab(text, timezone="UTC")
    except ValueError as error:
        raise Wrong(f"{setting}={text} is wrong: minute hour day month weekday ({error}).") from None
    if not trigger.get_next_fire_time(None, now()):
        raise Wrong(f"{setting}={text} is wrong: there is no such day.")
    return trigger


def bucket() -> str | None:
    """Where the copy elsewhere goes; None when there is none."""
    return os.environ.get("BACKUP_S3_BUCKET") or None


def keys() -> tuple[dict[str, str], str]:
    """What BACKUP_S3_KEYS says, and the certificate below it, if there is one. Raises Wrong."""
    try:
        text = KEYS.read_text()
    except PermissionError:
        raise Wrong("BACKUP_S3_KEYS can't be read by uid 10003: `chown 10003` it.") from None
    except IsADirectoryError:
        # Docker makes one where there is nothing to mount.
        raise Wrong("BACKUP_S3_KEYS names a file that isn't there.") from None
    named = dict(line.split("=", 1) for line in text.splitlines() if line.partition("=")[0] in NAMES)
    missing = [name for name in NAMES if not named.get(name)]
    if missing:
        raise Wrong(f"BACKUP_S3_KEYS must name a file with {', '.join(missing)}: one NAME=value a line.")
    begin = text.find("-----BEGIN CERTIFICATE-----")
    return named, text[begin:] if begin >= 0 else ""


def check() -> None:
    """Raise Wrong for the first setting that is."""
    keep_days()
    rate()
    every()
    for setting in SCHEDULES:
        crontab(setting)
    if not bucket():
        return
    keys()
    if not os.environ.get("BACKUP_S3_ENDPOINT", "").startswith(("https://", "http://")):
        raise Wrong("BACKUP_S3_ENDPOINT is wrong: the https:// address of an S3 service.")
    if all(path.parent.name == "lo" or path.read_text() == "down\n" for path in NETWORKS.glob("*/operstate")):
        raise Wrong("BACKUP_S3_BUCKET is set, and the service has no network: set BACKUP_NETWORK=bridge.")
