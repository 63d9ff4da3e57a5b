"""One list of settings: what .env.example names, compose.yaml hands over, and the code reads."""

import re
from dataclasses import fields
from typing import Any

import yaml

from offline.images import STAND_INS
from runtime.settings import PREFIX, Settings
from tests.conftest import REPO


def listed_in_example() -> set[str]:
    return set(re.findall(r"^# ?([A-Z][A-Z0-9_]+)=", (REPO / ".env.example").read_text(), re.MULTILINE))


def used_by_compose() -> set[str]:
    text = "".join((REPO / path).read_text() for path in ("compose.yaml", "traefik/static.env"))
    # Handed to the backup service by name alone.
    named = set(re.findall(r"\bBACKUP_[A-Z0-9_]+", text))
    return named | set(re.findall(r"\$\{([A-Z0-9_]+)", text))


def test_one_list_of_settings() -> None:
    """.env.example lists what compose.yaml and Traefik's configuration read, and nothing else."""
    assert listed_in_example() == used_by_compose()


def test_every_setting_of_the_code_reaches_it() -> None:
    """compose.yaml hands each setting of the code to a slot or to migrate, and each with the prefix."""
    compose: Any = yaml.safe_load((REPO / "compose.yaml").read_text())
    handed = set(compose["x-slot"]["environment"]) | set(compose["services"]["migrate"]["environment"])
    assert handed == {PREFIX + one.name.upper() for one in fields(Settings)}


def test_stand_ins_have_settings() -> None:
    """Each base image that offline/ can build is chosen by a setting."""
    assert set(STAND_INS) <= used_by_compose()
