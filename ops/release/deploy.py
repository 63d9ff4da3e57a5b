"""`./stack deploy`, `rollback` and `releases`: a release at a time, with a way back."""

from __future__ import annotations

import json
import sys
import time
from functools import partial

from ops.config import Config, override, resolved
from ops.database import owner
from ops.database.backup import restore_point, state_of_backups
from ops.database.migrations import mention_what_is_gone, refuse_to_take_away
from ops.database.switch import settle
from ops.door import ask, maintenance
from ops.lock import lock
from ops.machine.checks import check_room, configuration
from ops.machine.images import base_images, chosen_bases
from ops.machine.plan import check_sizes
from ops.release import cron, processes, releases, rollout, slots, snapshot
from ops.release.build import build_release, check_release, choose_dockerfile, migrate, start_database
from ops.release.hooks import BEFORE, Hooks
from ops.run import Stop, running, step


def deploy(*build_options: str, contract: bool = False) -> None:
    """Put this checkout into service. Raises Stop; what served then serves still.

    `contract`: although its migrations take away what an earlier release may use.
    """
    begun = time.monotonic()
    with lock("deploy"):
        config = serving_configuration()
        hooks = Hooks(config, "deploy")
        with hooks.around():
            checkout = releases.of_checkout()
            if not (checkout and releases.image_id(config.project, checkout)):
                check_room()
            base_images(config)
            choose_dockerfile()
            try:
                release, migrated, way_back = put_into_service(config, hooks, build_options, contract)
            except BaseException:
                # Of what failed nothing stays.
                slots.prune(config.project)
                raise
        processes.remove_others(config)
        hooks.run_after()
    mention_what_was_left(config)
    if migrated and way_back:
        print(f"The database as it was before the migration: ./stack rollback, then {way_back}")
    mention_what_is_odd(config)
    print(f"Release {release} serves, after {time.monotonic() - begun:.1f} s.")


def mention_what_is_odd(config: Config, first: bool = False) -> None:
    """What the user should know of what serves, and how the backups are; `first`: after the first start."""
    if said := maintenance.about_maintenance() or ask.about_pages(config):
        print(said)
    for words in cron.troubles(config):
        print(words)
    print(state_of_backups(config.project, first))


def put_into_service(
    config: Config, hooks: Hooks, build_options: tuple[str, ...], contract: bool, again: bool = False
) -> tuple[str, bool, str | None]:
    """Return the release, whether it migrated, and the command that leads back to before that. Raises Stop."""
    release = None
    try:
        try:
            check_sizes(config)
            with step("Build the image"):
                release = hooks.release = build_release(config.project, *build_options)
            with step("Check the settings"):
                check_release(config, release)
            # Or nobody could tell what the migration takes away.
            start_database(config.project)
            if not contract:
                refuse_to_take_away(config, release, releases.current())
            hooks.run(BEFORE)
            processes.start_accessories(config, processes.missing(config))
            way_back = name_this_moment(config.project, release)
            with step("Migrate"):
                migrated = migrate(config.project)
        except Stop as failure:
            now = f"Nothing was replaced. Serving now: {slots.serving_now(config.project)}."
            raise Stop(f"{failure}\n{now}", failure.code) from None
        rollout.roll_out(release, config)
    except Stop as failure:
        needed = [releases.image_name(config.project, release)] if release else chosen_bases(config).values()
        if again or releases.image_ids(*needed):
            raise
        what = f"the image of {release}" if release else "a base image"
        print(f"{failure}\nSomebody removed {what} meanwhile: once more.", file=sys.stderr)
        base_images(config)
        return put_into_service(config, hooks, build_options, contract, again=True)
    slots.keep(config.project, release, take=partial(snapshot.after_deploy, config.project))
    return release, migrated, way_back


def name_this_moment(project: str, release: str) -> str | None:
    """Take a restore point; return the command that leads back to it, None when there is none to be had."""
    try:
        # A name may have 60 characters: backup/jobs.py.
        return restore_point(project, f"before-{release[:46]}-{time.strftime('%H%M%S', time.gmtime())}")
    except Stop as failure:
        print(f"There is no restore point from before this deploy: {failure}", file=sys.stderr)
        return None


def rollback(wanted: str | None) -> None:
    """Put an earlier release into service: `wanted`, or what served before an interrupted or the last deploy."""
    begun = time.monotonic()
    with lock("rollback") as killed:
        config = serving_configuration()
        project, current = config.project, releases.current()
        # One that was killed may have replaced a slot, or was about to.
        runs = slots.releases_of(project)
        others = [runs[slot] for slot in slots.SLOTS if runs.get(slot, current) != current]
        interrupted = killed in ("deploy", "update") or any(runs.get(slot) != current for slot in slots.SLOTS)
        if wanted:
            release = wanted
        elif killed == "rollback" and others:
            release = others[0]
            print(f"A rollback was interrupted: on to {release}.", file=sys.stderr)
        elif interrupted and current and releases.image_id(project, current):
            print(f"A deploy was interrupted: back to {current}.", file=sys.stderr)
            release = current
        else:
            release = releases.previous(project, current)
        if not releases.image_id(project, release):
            served = any(one.name == release for one in releases.history())
            none = f"There is no image of a release {release}: `./stack releases` lists them."
            raise Stop(releases.removed(release) if served else none)
        if release != current:
            mention_what_is_gone(project, release, current)
        override("RELEASE", release)
        hooks = Hooks(config, "rollback")
        hooks.release = release
        with hooks.around():
            with step("Check the settings"):
                check_release(config, release)
            start_database(project)
            answer = rollout.roll_out(release, config)
            left = current if release != current and not wanted else None
            slots.keep(project, release, left, partial(snapshot.after_deploy, project))
        hooks.run_after()
    if answer.get("database") == "ok" and answer.get("at_head") is False:
        print(
            f"The database's schema ({', '.join(answer['schema'])}) is newer than this release's code "
            f"({', '.join(answer['head'])}). That is well if it was only added to (docs/releases.md)."
        )
    print(f"Release {release} serves again, after {time.monotonic() - begun:.1f} s.")


def show_releases(project: str, as_json: bool) -> None:
    found = releases.listing(project, slots.releases_of(project))
    current = releases.current()
    if as_json:
        rows = [
            {
                **one.row(),
                "current": one.name == current,
                "slots": [name for name in runs if name in slots.SLOTS],
                "processes": [name for name in runs if name not in slots.SLOTS],
            }
            for one, runs in found
        ]
        print(json.dumps(rows, indent=2))
        return
    for one, runs in found:
        state = ", ".join(runs) or ("rolled back" if one.rolled_back else "")
        print(f"{one.name:36}  {one.since}  {state}{' (current)' if one.name == current else ''}")
    if said := maintenance.about_maintenance():
        print(said)
    if not found:
        print("There is no release yet: `./stack up` makes the first.")


def serving_configuration() -> Config:
    """The configuration, of a stack whose front door is open and that is settled: the slots are what is replaced.

    Raises Stop.
    """
    config = configuration()
    if not running(config.project, "traefik"):
        raise Stop("Traefik doesn't run: `./stack up` starts the stack.")
    config = settle(config)
    owner.refuse_unused(config)
    return config


def mention_what_was_left(config: Config) -> None:
    """Name the services whose settings have changed since they were started."""
    found, served = slots.now(config.project), slots.served_services()
    wanted = json.loads(resolved())["services"]
    for service in [*slots.LEFT_ALONE, *config.accessories]:
        if service in found and served.get(service) != wanted[service]:
            gap = ", which takes a second in which nothing answers" if service in slots.FRONT else ""
            print(f"{service} still runs with its old settings: `./stack up` starts it anew{gap}.", file=sys.stderr)
