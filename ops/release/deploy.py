"""`./stack deploy`, `rollback` and `releases`: a release at a time, with a way back."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from ops.database.backup import restore_point, summary
from ops.database.switch import settle
from ops.lock import lock
from ops.machine.checks import configuration
from ops.machine.images import base_images
from ops.machine.plan import check_sizes
from ops.release import releases, rollout, slots
from ops.release.app import choose_dockerfile
from ops.release.build import build_release, check_settings, migrate
from ops.run import HERE, Stop, compose, running, step

# Services that a deploy leaves alone: the restart of the first two is not without a gap.
KEPT = ("traefik", "postgres", "backup")


def deploy() -> None:
    """Put this checkout into service. Raises Stop; what served then serves still."""
    begun = time.monotonic()
    with lock("deploy"):
        config = settle(serving_configuration())
        base_images(config)
        choose_dockerfile()
        try:
            check_sizes(config)
            with step("Build the image"):
                release = os.environ["RELEASE"] = build_release()
            with step("Check the settings"):
                check_settings()
            way_back = name_this_moment(release)
            with step("Migrate"):
                migrated = migrate()
        except Stop as failure:
            raise Stop(f"{failure}\nNothing was replaced. Serving now: {slots.summary()}.", failure.code) from None
        rollout.roll_out(release, config)
        slots.keep(release)
    mention_what_was_left()
    if migrated and way_back:
        print(f"The database as it was before the migration: ./stack rollback, then {way_back}")
    print(summary())
    print(f"Release {release} serves, after {time.monotonic() - begun:.1f} s.")


def name_this_moment(release: str) -> str | None:
    """Take a restore point; return the command that leads back to it, None when there is none to be had."""
    try:
        return restore_point(f"before-{release}-{time.strftime('%H%M%S', time.gmtime())}")
    except Stop as failure:
        print(f"There is no restore point from before this deploy: {failure}", file=sys.stderr)
        return None


def rollback(wanted: str | None) -> None:
    """Put an earlier release into service: `wanted`, or what served before an interrupted or the last deploy."""
    begun = time.monotonic()
    with lock("rollback") as killed:
        config = settle(serving_configuration())
        current = releases.current()
        # One that was killed may have replaced a slot, or was about to.
        interrupted = killed or any(slots.release_of(slot) != current for slot in slots.SLOTS)
        if wanted:
            release = wanted
        elif interrupted and current and releases.image_id(current):
            print(f"A deploy was interrupted: back to {current}.", file=sys.stderr)
            release = current
        else:
            release = releases.previous(current)
        if not releases.image_id(release):
            raise Stop(f"There is no image of a release {release}: `./stack releases` lists them.")
        os.environ["RELEASE"] = release
        with step("Check the settings"):
            check_settings()
        answer = rollout.roll_out(release, config)
        slots.keep(release, rolled_back=current if release != current and not wanted else None)
    if answer.get("database") == "ok" and not answer["at_head"]:
        print(
            f"The database's schema ({', '.join(answer['schema'])}) is newer than this release's code "
            f"({', '.join(answer['head'])}). That is allowed: it was only added to (docs/releases.md)."
        )
    print(f"Release {release} serves again, after {time.monotonic() - begun:.1f} s.")


def show_releases(as_json: bool) -> None:
    rows = releases.listing({slot: slots.release_of(slot) for slot in slots.SLOTS})
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        state = ", ".join(row["slots"]) or ("rolled back" if row["rolled_back"] else "")
        print(f"{row['release']:36}  {row['since']}  {state}{' (current)' if row['current'] else ''}")
    if not rows:
        print("There is no release yet: `./stack up` makes the first.")


def serving_configuration() -> dict[str, Any]:
    """The configuration, of a stack whose front door is open: the slots are what is replaced. Raises Stop."""
    config = configuration()
    if not running("traefik"):
        raise Stop("Traefik doesn't run: `./stack up` starts the stack.")
    return config


def mention_what_was_left() -> None:
    """Name the services whose settings have changed since they were started."""
    # Of what Compose has read: of compose.yaml it would not count what comes from an env_file.
    hashes = compose("--project-directory", str(HERE), "--file", str(slots.SNAPSHOT), "config", "--hash", "*").stdout
    wanted = dict(line.split() for line in hashes.splitlines())
    listed = compose("ps", "--format", "json", *KEPT).stdout.splitlines()
    for one in map(json.loads, listed):
        labels = dict(label.partition("=")[::2] for label in one["Labels"].split(","))
        if labels["com.docker.compose.config-hash"] != wanted[one["Service"]]:
            gap = "" if one["Service"] == "backup" else ", which takes a second in which nothing answers"
            print(
                f"{one['Service']} still runs with its old settings: `./stack up` starts it anew{gap}.", file=sys.stderr
            )
