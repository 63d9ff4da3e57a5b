"""`./stack deploy`, `rollback` and `releases`: a release at a time, with a way back."""

from __future__ import annotations

import json
import sys
import time

from ops.config import Config, override
from ops.database.backup import restore_point, state_of_backups
from ops.database.migrations import refuse_to_take_away
from ops.database.switch import settle
from ops.door import ask
from ops.lock import lock
from ops.machine.checks import configuration
from ops.machine.images import base_images
from ops.machine.plan import check_sizes
from ops.release import releases, rollout, slots
from ops.release.app import choose_dockerfile
from ops.release.build import build_release, check_settings, migrate
from ops.run import HERE, Stop, compose, running, step

# Services that a deploy leaves alone: the restart of the first two is not without a gap.
LEFT_ALONE = ("traefik", "postgres", "backup")


def deploy(*build_options: str, contract: bool = False) -> None:
    """Put this checkout into service. Raises Stop; what served then serves still.

    `contract`: although its migrations take away what an earlier release may use.
    """
    begun = time.monotonic()
    with lock("deploy"):
        config = settle(serving_configuration())
        base_images(config)
        choose_dockerfile()
        try:
            check_sizes(config)
            with step("Build the image"):
                release = build_release(config.project, *build_options)
            with step("Check the settings"):
                check_settings(config, release)
            if not contract:
                refuse_to_take_away(config, release, releases.current())
            way_back = name_this_moment(config.project, release)
            with step("Migrate"):
                migrated = migrate()
        except Stop as failure:
            raise Stop(
                f"{failure}\nNothing was replaced. Serving now: {slots.serving_now(config.project)}.", failure.code
            ) from None
        rollout.roll_out(release, config)
        slots.keep(config.project, release)
    mention_what_was_left()
    if migrated and way_back:
        print(f"The database as it was before the migration: ./stack rollback, then {way_back}")
    if said := ask.about_pages(config):
        print(said)
    print(state_of_backups(config.project))
    print(f"Release {release} serves, after {time.monotonic() - begun:.1f} s.")


def name_this_moment(project: str, release: str) -> str | None:
    """Take a restore point; return the command that leads back to it, None when there is none to be had."""
    try:
        return restore_point(project, f"before-{release}-{time.strftime('%H%M%S', time.gmtime())}")
    except Stop as failure:
        print(f"There is no restore point from before this deploy: {failure}", file=sys.stderr)
        return None


def rollback(wanted: str | None) -> None:
    """Put an earlier release into service: `wanted`, or what served before an interrupted or the last deploy."""
    begun = time.monotonic()
    with lock("rollback") as killed:
        config = settle(serving_configuration())
        project, current = config.project, releases.current()
        # One that was killed may have replaced a slot, or was about to.
        interrupted = killed or any(slots.release_of(project, slot) != current for slot in slots.SLOTS)
        if wanted:
            release = wanted
        elif interrupted and current and releases.image_id(project, current):
            print(f"A deploy was interrupted: back to {current}.", file=sys.stderr)
            release = current
        else:
            release = releases.previous(project, current)
        if not releases.image_id(project, release):
            raise Stop(f"There is no image of a release {release}: `./stack releases` lists them.")
        override("RELEASE", release)
        with step("Check the settings"):
            check_settings(config, release)
        answer = rollout.roll_out(release, config)
        slots.keep(project, release, rolled_back=current if release != current and not wanted else None)
    if answer.get("database") == "ok" and not answer["at_head"]:
        print(
            f"The database's schema ({', '.join(answer['schema'])}) is newer than this release's code "
            f"({', '.join(answer['head'])}). That is well if it was only added to (docs/releases.md)."
        )
    print(f"Release {release} serves again, after {time.monotonic() - begun:.1f} s.")


def show_releases(project: str, as_json: bool) -> None:
    found = releases.listing(project, {slot: slots.release_of(project, slot) for slot in slots.SLOTS})
    current = releases.current()
    if as_json:
        rows = [{**one.row(), "current": one.name == current, "slots": runs} for one, runs in found]
        print(json.dumps(rows, indent=2))
        return
    for one, runs in found:
        state = ", ".join(runs) or ("rolled back" if one.rolled_back else "")
        print(f"{one.name:36}  {one.since}  {state}{' (current)' if one.name == current else ''}")
    if not found:
        print("There is no release yet: `./stack up` makes the first.")


def serving_configuration() -> Config:
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
    listed = compose("ps", "--format", "json", *LEFT_ALONE).stdout.splitlines()
    for one in map(json.loads, listed):
        labels = dict(label.partition("=")[::2] for label in one["Labels"].split(","))
        if labels["com.docker.compose.config-hash"] != wanted[one["Service"]]:
            gap = "" if one["Service"] == "backup" else ", which takes a second in which nothing answers"
            print(
                f"{one['Service']} still runs with its old settings: `./stack up` starts it anew{gap}.", file=sys.stderr
            )
