"""`./stack up`: returns once the app answers through Traefik."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from ops import dotenv
from ops.config import OF_THE_STACK, Config, project_name
from ops.database import major, owner
from ops.database.switch import VOLUME_SETTING, settle
from ops.database.volumes import holds_database
from ops.door import maintenance
from ops.door.certificate import check_names, check_store, wait_for_certificates
from ops.door.front import check_networks, forget_stuck, go_back
from ops.door.own import check_client_ca, check_own, let_read, open_routes, wait_for_own
from ops.lock import lock
from ops.machine.checks import check_ports, check_room, configuration
from ops.machine.images import base_images, newest_bases
from ops.machine.install import ensure_docker
from ops.machine.plan import check_sizes
from ops.release import processes, releases, rollout, slots
from ops.release.build import (
    build_all,
    built_here,
    check_release,
    check_settings,
    choose_dockerfile,
    is_built,
    migrate,
    remember_built,
)
from ops.release.deploy import deploy, mention_what_is_odd
from ops.release.hooks import BEFORE, Hooks
from ops.run import ONE_SHOT, Stop, compose, compose_json, docker, has_volume, running, step, uninterrupted


def up() -> None:
    """Start what isn't running, from the current release. Raises Stop.

    From this checkout where there is none, or its image is gone, or there is no database.
    """
    begun, since = time.monotonic(), f"{time.time():.3f}"
    ensure_docker()
    with lock("up"):
        config = configuration()
        if not is_built():
            check_room()
        check_ports(config)
        check_sizes(config)
        check_networks(config)
        check_names(config)
        certificates = check_own(config)
        check_client_ca(config)
        base_images(config)
        choose_dockerfile()
        open_routes()
        config = settle(config)
        hooks, before = Hooks(config, "up"), running(config.project)
        # Of one that was stopped, the containers stay what they are.
        made_here = not running(config.project, ended=True)
        try:
            with hooks.around():
                release, as_it_was, migrated = start_stack(config, hooks, bool(slots.serving(config.project)))
                with step("Wait for an answer"):
                    wait_for_answer(config, untouched=bool(before) and running(config.project) == before)
        except (Stop, KeyboardInterrupt) as failure:
            failed = isinstance(failure, Stop) and failure.code == 1
            if failed:
                slots.show_evidence(config.project)
            if not before:
                compose("down" if made_here else "stop", check=False)
            if failed:
                print(f"Serving now: {slots.serving_now(config.project)}.", file=sys.stderr)
            raise
        if as_it_was and releases.current():
            # The folder may have another name.
            owner.remember(config.project)
        else:
            slots.keep(config.project, release)
            processes.remove_others(config, accessories=True)
            hooks.run_after()
        maintenance.refresh(config)
    wait_for_own(config, certificates)
    wait_for_certificates(config, since)
    print(f"\n{config.address}")
    ours = f"label=com.docker.compose.project={config.project}"
    row = '{{.Label "com.docker.compose.service"}}\t{{.Status}}'
    print("\n".join(sorted(docker("ps", "--filter", ours, "--format", row).stdout.splitlines())))
    if another := about_checkout(release):
        print(another)
    mention_what_is_odd(config, first=not before)
    changed = "Nothing changed" if running(config.project) == before and not migrated else "Up"
    print(f"{changed}, in {time.monotonic() - begun:.1f} s.")


def about_checkout(release: str) -> str:
    """A sentence where the checkout is another release than this."""
    checkout = releases.of_checkout()
    if not checkout or releases.is_of(release, checkout):
        return ""
    return f"This is release {release}. The checkout is {checkout}: `./stack deploy` puts it into service."


def wait_for_answer(config: Config, untouched: bool) -> None:
    """Wait until the app answers, and its database. Raises Stop.

    Slots that were left as they are may have so much to do that they ask a database too late that is well.
    """
    try:
        rollout.answered(config, "the app and its database did not answer", {"database": "ok"})
    except Stop as stop:
        found = slots.now(config.project).get("postgres")
        all_serve = len(slots.serving(config.project)) == len(slots.SLOTS)
        if not (untouched and dotenv.own_postgres() and found and found.healthy and all_serve):
            raise
        print(f"{stop} Postgres is well, and nothing was changed: going on.", file=sys.stderr)


def has_no_database(config: Config) -> bool:
    """Whether there is no volume yet, or one that a start which failed has left empty. Raises Stop."""
    name, image = config.volumes["postgres-data"], config.services["postgres"].image
    if not has_volume(name):
        return True
    # Without the image nobody can look.
    return bool(releases.image_ids(image)) and not holds_database(name, image)


def refuse_older(config: Config) -> None:
    """Raises Stop with 2 when .env no longer names the volume that a restore or an upgrade made, and which served.

    What was written since is there alone.
    """
    name, served = config.volumes["postgres-data"], slots.served_volume(config.project)
    if served not in (None, name) and not dotenv.chosen(VOLUME_SETTING) and has_volume(str(served)):
        raise Stop(
            f"{VOLUME_SETTING} is not set any more, and this stack served from {served}. Write into .env "
            f"{VOLUME_SETTING}={served}. To serve an older database: {VOLUME_SETTING}={name}.",
            2,
        )


def refuse_empty(config: Config) -> None:
    """Raises Stop with 2 when this would begin with an empty database where there are backups of one."""
    name, volume = config.volumes["postgres-data"], config.volumes["backup"]
    if owner.in_use(config):
        return
    if holds_database(name, config.services["postgres"].image):
        if not releases.current():
            print(f"This stack goes on with the database in {name}.", file=sys.stderr)
        return
    if not has_volume(volume) and not config.services["backup"].environment["BACKUP_S3_BUCKET"]:
        return
    with step("Ask the backups, for there is no database"):
        found = compose_json(*ONE_SHOT, "backup", "bucket")
    bucket = f"The bucket holds {found['backups']} backups, the newest of {found['newest']}, of"
    for identity, words, away in (
        (found["local_identity"], "The volume of the backups holds", f"`docker volume rm {volume}`"),
        (found["identity"], bucket, "name another BACKUP_S3_BUCKET"),
    ):
        if identity:
            raise Stop(
                f"{words} a database that isn't here: `./stack restore --to latest` brings it back. To begin with an "
                f"empty one: {away}.",
                2,
            )


@contextlib.contextmanager
def way_back(config: Config, built: bool) -> Iterator[list[str]]:
    """Put back what a failure within has changed: the images that ran, and the services that are named to the list.

    `built`: whether those images are what this checkout makes.
    """
    kept = {} if built else major.keep_images(config, built_here(config))
    touched: list[str] = []
    try:
        yield touched
    except BaseException:
        with uninterrupted():
            if touched:
                # Of what is about to be replaced.
                slots.show_evidence(config.project, *touched)
            major.put_back(kept)
            go_back(config.project, slots.served_services(), slots.AS_SERVED, *touched)
        raise
    else:
        if not built:
            remember_built()
    finally:
        major.forget_images(kept)


def start_stack(config: Config, hooks: Hooks, serving: bool) -> tuple[str, bool, bool]:
    """Start what isn't running; return the release, whether all was as it should be, and whether it migrated.

    Raises Stop.
    """
    major.refuse_another(config)
    built, own = is_built(), dotenv.own_postgres()
    # Where no database goes with a release there may be another app here by now, in place of the sample.
    anew = own and not serving and has_no_database(config)
    with way_back(config, built) as touched:
        with step("Build the images"):
            release = hooks.release = build_all(config.project, built, anew)
        changed = slots.changed(config, release) if serving else {*slots.SLOTS, *slots.LEFT_ALONE}
        if changed and own:
            # Before the first `compose run`, which makes all of the project's volumes.
            owner.check_volume(config)
        with step("Check the settings"):
            try:
                if changed:
                    check_release(config, release)
            except Stop as stop:
                # Settings that go with the checkout's code, like APP, may not be for the release that serves.
                raise Stop("\n".join(filter(None, [str(stop), about_checkout(release)])), stop.code) from None
            if changed and own:
                check_settings(config, release, "backup", ("settings",))
            check_store(config)
            let_read(config)
        if "traefik" in changed:
            forget_stuck(config.project)
        if own and not changed.isdisjoint(slots.LEFT_ALONE):
            refuse_older(config)
            refuse_empty(config)
        migrates = not serving or not changed.isdisjoint(slots.SLOTS)
        if migrates:
            hooks.run(BEFORE)
        touched += [name for name in config.accessories if serving and name in OF_THE_STACK]
        processes.start_accessories(config, config.accessories)
        if not serving:
            with step("Start Postgres, migrate, start the slots and Traefik"):
                rollout.start(config, {})
                slots.start_backup()
                for name in config.files:
                    processes.run_once(config.project, name, processes.NOT_PLACED)
            return release, False, True
        if not changed.isdisjoint(slots.LEFT_ALONE):
            # One at a time: `up` stops all that changed before it starts any.
            # Traefik may be about to ask for them.
            processes.bring_files(config)
            front = ["traefik", *(["postgres"] if own else [])]
            touched += front
            with step("Update Postgres, its backups and Traefik" if own else "Update Traefik"):
                # A Postgres that the slots still use stays until they have another: slots.keep.
                compose("up", "--detach", "--wait", "--no-deps", *front)
                if own:
                    slots.start_backup()
        for postgres in running(config.project, "postgres"):
            # What an app that was broken into may have set for itself.
            docker("exec", postgres, "rights")
        answer = rollout.answered(config, "the app did not answer", {})
    migrated = False
    # What the slots answer is about the database that they have: a changed setting may name another. Without Alembic
    # nobody knows where the schema is, and the migration ran when this release came.
    if migrates or not answer.get("at_head", True):
        if not migrates:
            hooks.run(BEFORE)
        with step("Migrate"):
            migrated = migrate(config.project)
    if changed.difference(slots.LEFT_ALONE):
        rollout.roll_out(release, config)
    return release, not changed, migrated


def up_on_newest() -> None:
    """Raises Stop; what served then serves still."""
    ensure_docker()
    release, checkout = releases.current(), releases.of_checkout()
    if release and checkout and not releases.is_of(release, checkout):
        raise Stop(
            f"Release {release} serves, and the checkout is {checkout}, which newer base images must not put into "
            "service too: `./stack deploy` first, or check that release out.",
            2,
        )
    with newest_bases(configuration()):
        serve_all(pull=True)


def serve_all(pull: bool) -> None:
    """Put all that is here into service; `pull`: on the newest of what the app's Dockerfile names. Raises Stop."""
    # An image that was built elsewhere may be in no registry.
    options = ("--pull",) if pull and not dotenv.chosen("APP_IMAGE") else ()
    serving, known = running(project_name(), "traefik"), releases.current()
    # The app's layer first, where there is a stack that serves: if it fails, nothing else has changed. And the slots
    # are replaced once: image and settings together.
    if serving:
        deploy(*options)
    up()
    if known and not serving:
        deploy(*options)
