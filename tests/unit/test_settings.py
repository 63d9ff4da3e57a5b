"""One list of settings: what .env.example names, compose.yaml hands over, and the code reads."""

import json
import os
import re
import subprocess
from dataclasses import fields
from typing import Any

import pytest
import yaml

from offline.images import STAND_INS
from ops.allowed import ALLOWED, URLS
from runtime.settings import PREFIX, URL, Settings
from tests.conftest import REPO

FILES = ("compose.yaml", "fileserver/services.yaml", "traefik/static.env")


def listed_in_example() -> set[str]:
    return set(re.findall(r"^# ?([A-Z][A-Z0-9_]+)=", (REPO / ".env.example").read_text(), re.MULTILINE))


def used_by_compose() -> set[str]:
    text = "".join((REPO / path).read_text() for path in FILES)
    # Handed to the backup service by name alone.
    named = set(re.findall(r"\bBACKUP_[A-Z0-9_]+", text))
    return named | set(re.findall(r"\$\{([A-Z0-9_]+)", text))


def test_one_list_of_settings() -> None:
    """.env.example lists what compose.yaml and Traefik's configuration read, and nothing else."""
    assert listed_in_example() == used_by_compose()


def test_one_rule_of_urls() -> None:
    """`./stack` allows of a database's URL what the app's container takes, or nothing."""
    pattern, words = URL
    assert {ALLOWED[name] for name in URLS} == {(f"({pattern})?", words)}


def test_every_setting_of_traefik_is_checked() -> None:
    """traefik/settings says of each that Traefik's configuration reads what it may be, and in which variable it is."""
    text = (REPO / "traefik/static.env").read_text()
    lines = [line.split(maxsplit=3) for line in (REPO / "traefik/settings").read_text().splitlines()]
    checked = {setting: variable for setting, variable, *_ in lines if setting != "#"}
    assert set(checked) == set(re.findall(r"\$\{([A-Z0-9_]+)", text))
    for setting, variable in checked.items():
        assert re.search(rf"^{variable}=.*\$\{{{setting}\b", text, re.MULTILINE)


def test_rules_of_the_front_door_stand_once() -> None:
    """What the names and the guarded paths are one template says: a second one could differ, and leave a path open."""
    templates = [path for path in (REPO / "traefik/dynamic").glob("*.yaml") if path.name != "maintenance.yaml"]
    for rule in ("Host(`", "HostRegexp(`", "PathRegexp(`"):
        assert [path.name for path in templates if rule in path.read_text()] == ["app.yaml"]


def test_every_setting_of_the_code_reaches_it() -> None:
    """compose.yaml hands each setting of the code to a slot or to migrate; all others are for other engines, which a
    table of docs/growing.md lists."""
    compose: Any = yaml.safe_load((REPO / "compose.yaml").read_text())
    handed = set(compose["x-slot"]["environment"]) | set(compose["services"]["migrate"]["environment"])
    page = (REPO / "docs/growing.md").read_text()
    elsewhere = set(re.findall(rf"^\| `({PREFIX}\w+)` \|", page, re.MULTILINE))
    assert handed | elsewhere == {PREFIX + one.name.upper() for one in fields(Settings)}
    assert not handed & elsewhere


def test_stand_ins_have_settings() -> None:
    """Each base image that offline/ can build is chosen by a setting, of the stack's or of what a page has to copy."""
    documented = set(re.findall(r"\$\{([A-Z0-9_]+)", (REPO / "docs/processes.md").read_text()))
    assert set(STAND_INS) <= used_by_compose() | documented


# Changed values, where one more or another word would be none.
OTHER = {
    "EDGE_IPV6": "false",
    "BACKUP_S3_KEYS": "./keys",
    "STATIC_DIR": "/other",
    "EDGE_SUBNET": "10.0.0.0/28",
    "EDGE_SUBNET_IPV6": "fd00::/64",
}
OTHER |= dict.fromkeys(("APP_MEMORY", "POSTGRES_MEMORY", "TMP_SIZE"), "777m")
PLACES = {"app-1": "slots", "app-2": "slots", "migrate": "migration", "user": "image"}
PLACES |= {"traefik": "Traefik", "postgres": "Postgres", "backup": "backups", "static": "file server"}
PLACES |= {"static-files": "static files"}
DEPLOYED = {"image", "slots", "migration", "command", "static files"}
BROUGHT_UP = {*PLACES.values(), "network", "command"} - {"image"}
# Which are not for hands.
WRITTEN = {"RELEASE", "POSTGRES_VOLUME", "COMPOSE_PROJECT_NAME"}


def resolved(**settings: str) -> dict[str, Any]:
    """compose.yaml with these settings, as Compose reads it."""
    argv = ["docker", "compose", "--env-file", "/dev/null", "config", "--format", "json"]
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **settings}
    found: dict[str, Any] = json.loads(subprocess.check_output(argv, cwd=REPO, env=environment, timeout=60))
    return found


def reached(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """What is another one."""
    changed = {name for name, one in after["services"].items() if one != before["services"][name]}
    found = {PLACES[name] for name in changed}
    if "migrate" in changed and after["services"]["migrate"]["build"] != before["services"]["migrate"]["build"]:
        # The slots' image is built as the migration's.
        found = found - {"migration"} | {"image"}
    found |= {"network"} if after["networks"] != before["networks"] else set()
    return found | ({"command"} if after["x-deploy"] != before["x-deploy"] else set())


def column(found: set[str], applied: set[str]) -> str:
    return "yes" if found <= applied else "in part" if found & applied else "no"


@pytest.mark.docker
def test_table_of_what_applies_a_setting() -> None:
    """docs/settings.md says of each setting what it reaches, as compose.yaml has it, and which verb applies that."""
    example = (REPO / ".env.example").read_text()
    defaults = dict(re.findall(r"^# ([A-Z][A-Z0-9_]+)=(.*)$", example, re.MULTILINE))
    # Without these there is nothing that some of them could reach.
    on = {"STATIC_DIR": "/dist"}
    elsewhere = {**on, "DATABASE_URL": "postgresql://app@db/app"}
    before, before_elsewhere = resolved(**on), resolved(**elsewhere)
    expected = {}
    for name in defaults.keys() - WRITTEN:
        value = defaults[name]
        another = str(int(value) + 1) if value.isdecimal() else "another"
        given, was = (elsewhere, before_elsewhere) if name == "MIGRATION_DATABASE_URL" else (on, before)
        found = reached(was, resolved(**{**given, name: OTHER.get(name, another)}))
        expected[name] = (found, column(found, DEPLOYED), column(found, BROUGHT_UP))
    page = (REPO / "docs/settings.md").read_text()
    rows = re.findall(r"^\| (`[A-Z].*`) \| ([\w, ]+) \| ([\w ]+) \| ([\w ]+) \|$", page, re.MULTILINE)
    told = {
        name: (set(places.split(", ")), deploy, up)
        for names, places, deploy, up in rows
        for name in re.findall("`(.*?)`", names)
    }
    assert told == expected
    assert {name for name in WRITTEN if f"`{name}`" in page} == WRITTEN
