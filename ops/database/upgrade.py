"""`./stack upgrade-postgres`: the database under a new major version of Postgres, in a new volume."""

from __future__ import annotations

import time

from ops.config import override
from ops.database.backup import backup, refuse_elsewhere, verify
from ops.database.major import SERVICES, keep_images, put_back_on_failure, versions
from ops.database.switch import VOLUME_SETTING, begin, settle, switch
from ops.lock import lock
from ops.machine.checks import configuration
from ops.machine.images import base_images
from ops.machine.install import ensure_docker
from ops.machine.plan import check_sizes
from ops.release import slots
from ops.release.build import build, check_release, release_to_serve
from ops.run import AT_ONCE, ONE_SHOT, Stop, compose_json, confirm, docker, running, step
from ops.words import size

# Who could still write to the old database: what the slots had ends with them.
SESSIONS = """
SELECT pg_catalog.format('%s as %s', COALESCE(NULLIF(application_name, ''), 'a program'), usename)
FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend' AND usename IN ('app', 'owner') ORDER BY 1
"""


def upgrade(yes: bool) -> None:
    """Raises Stop; the old database serves then."""
    begun = time.monotonic()
    refuse_elsewhere()
    ensure_docker()
    config = configuration()
    base_images(config)
    with lock("upgrade-postgres"):
        config = settle(config)
        check_sizes(config)
        before = keep_images(config, SERVICES)
        if len(before) < len(SERVICES):
            raise Stop(
                "Postgres and its backups must run to be upgraded, and the images that they run must still be there: "
                "./stack up, with POSTGRES_IMAGE as it was."
            )
        with put_back_on_failure(before):
            with step("Build the images"):
                # Not Traefik's, which would start anew for it.
                build(*SERVICES)
                release = release_to_serve(config.project)
            majors = versions(config)
            assert majors
            new = f"{config.project}_postgres-{majors[1]}-{time.strftime('%Y%m%d%H%M%S', time.gmtime())}"
            journal = begin(config, "upgrade-postgres", new, before)
            show_upgrade(majors, str(journal.old), new)
            with step("Check the settings"):
                check_release(config, release)
            confirm("Go on?", yes)
            # While what runs is still the old one.
            backup(config.project)
            verify(config.project)
        switch(config, journal, lambda: copy_database(config.project, new))
        slots.keep(config.project, release)
    print(f"\nPostgres {majors[1]} serves, after {time.monotonic() - begun:.1f} s; its backups begin with a full one.")
    print(f"Postgres {majors[0]}'s database is in the volume {journal.old}: `./stack volumes` lists and removes.")


def show_upgrade(majors: tuple[int, int], old: str, new: str) -> None:
    if majors[0] == majors[1]:
        raise Stop(f"Postgres {majors[0]} runs, and POSTGRES_IMAGE is of that version too: nothing is to be done.")
    if majors[0] > majors[1]:
        raise Stop(f"Postgres {majors[0]} runs, and POSTGRES_IMAGE is of {majors[1]}: there is no way back.", 2)
    print(f"Postgres {majors[0]} in the volume {old}, which stays as it is,")
    print(f"to Postgres {majors[1]} in the new volume {new}: a dump, restored.")
    print("First a backup, verified. Then the app answers 503 until it is done.", flush=True)


def copy_database(project: str, volume: str) -> None:
    """Fill the volume with a server of the new version, from the one that runs. Raises Stop."""
    wait_for_sessions(project)
    override(VOLUME_SETTING, volume)
    with step("Copy the database"):
        copied = compose_json(*ONE_SHOT, "postgres", "upgrade")
    print(f"{copied['rows']} rows in {copied['tables']} tables, {size(copied['bytes'])}.")


def wait_for_sessions(project: str) -> None:
    """Wait until nobody is left who could write. Raises Stop with those who stay: what they wrote now would be lost."""
    ask = ("psql", "-XqAtc", SESSIONS, "postgres")
    deadline = time.monotonic() + AT_ONCE
    while left := [
        one
        for container in running(project, "postgres")
        for one in docker("exec", "--user", "barman", container, *ask).stdout.splitlines()
    ]:
        if time.monotonic() > deadline:
            raise Stop(
                f"Open sessions could write to the old database, and the copy would lack it: {', '.join(left)}. "
                "End them (each `./stack psql` is one), and run `./stack upgrade-postgres` again."
            )
        time.sleep(0.2)
