"""`./stack restore`: the database as it was, in a new volume; the old one stays, and any failure goes back to it."""

from __future__ import annotations

import sys
import time
from typing import Any

from ops.database import major
from ops.database.backup import refuse_elsewhere
from ops.database.switch import Journal, begin, settle, switch
from ops.door.own import check_client_ca, check_own, let_read
from ops.lock import lock
from ops.machine.plan import check_sizes
from ops.release import releases, slots
from ops.release.build import build_all, built_here, check_release, is_built, prepared, remember_built
from ops.run import ONE_SHOT, compose, compose_json, confirm, run_with, running, step
from ops.words import size


def restore(to: str, yes: bool, bucket: bool = False) -> None:
    """`bucket`: its database, although the backups here are another one's. Raises Stop."""
    begun = time.monotonic()
    refuse_elsewhere()
    config = prepared()
    with lock("restore"):
        config = settle(config, again=True)
        check_sizes(config)
        major.refuse_another(config)
        built = is_built()
        before = {} if built else major.keep_images(config, built_here(config))
        with major.put_back_on_failure(before):
            with step("Build the images"):
                release = build_all(config.project, built)
            new = f"{config.project}_postgres-{time.strftime('%Y%m%d%H%M%S', time.gmtime())}"
            # Before the first `compose run`, which makes all of the project's volumes.
            journal = begin(config, "restore", new, before)
            if running(config.project, "postgres") and not running(config.project, "backup"):
                # What was written while it was away, it fetches first.
                slots.start_backup()
            source = ("bucket",) if bucket else ()
            plan = compose_json(*ONE_SHOT, "backup", "plan", to, *source)
            with step("Check the settings"):
                check_release(config, release)
                # Of a server that was lost they have another owner here.
                check_own(config)
                check_client_ca(config)
                let_read(config)
            show_plan(config.project, plan, journal)
            confirm("Go on?", yes)
        switch(config, journal, lambda: recover(config.project, new, to, *source))
        if not built:
            remember_built()
        slots.keep(config.project, release)
    print(f"\nRestored to {plan['to']}, in {time.monotonic() - begun:.1f} s.")
    if journal.old:
        print(f"The database as it was before is in the volume {journal.old}: `./stack volumes` lists and removes.")


def show_plan(project: str, plan: dict[str, Any], journal: Journal) -> None:
    increments = f" and {plan['increments']} increments" if plan["increments"] else ""
    print(f"Restore to   {plan['to']}")
    print(f"starting at  the backup {plan['backup']} of {plan['ended']}{increments}, then the WAL since")
    print(f"into         the new volume {journal.new}, about {size(plan['bytes'])}")
    if journal.old:
        print(f"instead of   {journal.old}, which stays as it is, with all that was written since that moment.")
    for warning in [*plan["warnings"], *releases.unknown_revision(project, plan["revision"])]:
        print(f"But          {warning}")
    print("The app answers 503 until it is done.", flush=True)


def recover(project: str, volume: str, *to: str) -> None:
    """Restore into the volume, with the backup service's image; then it is made Postgres's own."""
    with step("Stop Postgres, then the backup service, which has all that was written by then"):
        compose("stop", "postgres")
        compose("stop", "backup")
    with step("Restore into the new volume"):
        done = compose_json(*ONE_SHOT, "--volume", f"{volume}:/restore", "backup", "restore", *to)
        give_to_postgres(volume)
    for warning in [*done["warnings"], *releases.unknown_revision(project, done["revision"])]:
        print(warning, file=sys.stderr)


def give_to_postgres(volume: str) -> None:
    # Files belong to who restored them, and Postgres starts only on its own.
    rights = ("--user", "root", "--cap-drop", "ALL", "--cap-add", "CHOWN", "--cap-add", "DAC_OVERRIDE")
    closed = (*rights, "--volume", f"{volume}:/volume", "--entrypoint", "chown")
    image = compose("config", "--images", "postgres").stdout.split()[0]
    run_with(volume, *closed, image, "-R", "postgres:postgres", "/volume")
