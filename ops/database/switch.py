"""From one data volume to another, for a restore or an upgrade: each step is written down before it is taken.

Until Postgres starts on the new volume a failure, an interruption or a kill leads back to the old one. From there a
kill leads on, and a failure leads back as long as no slot serves on the new one. A volume that Postgres has run on is
never removed: somebody may have written to it.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

from ops import dotenv
from ops.config import OF_THE_STACK, Config, override, parse
from ops.database import major, owner
from ops.database.backup import inside
from ops.database.volumes import holds_database
from ops.door import ask, maintenance
from ops.door.own import open_routes
from ops.lock import STATE
from ops.machine.checks import configuration
from ops.release import rollout, slots, snapshot
from ops.run import (
    AT_ONCE,
    GONE,
    Stop,
    compose,
    docker,
    has_volume,
    interrupted_once,
    remove_container,
    running,
    step,
    uninterrupted,
)

JOURNAL = STATE / "journal.json"
VOLUME_SETTING = "POSTGRES_VOLUME"
# What Compose calls a program of `./stack run`.
RUN = "run"
REASON = "The volume that holds the data now. Written by ./stack."
# The WAL since is kept from here on, however long the backup service is away. The role is who streams.
SLOT = """
SELECT pg_catalog.pg_create_physical_replication_slot('barman', true)
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots WHERE slot_name = 'barman')
"""


@dataclass(frozen=True)
class Journal:
    """What is under way: `filling` the new volume, `starting` on it, or the way `back` from there."""

    verb: str
    new: str
    # None: there was no database.
    old: str | None
    phase: str = "filling"
    # Images to put back with the old volume, by the names that Compose starts them by.
    images: dict[str, str] = field(default_factory=dict)
    # Processes of a profile, by their ids: they run on in the end, as they were.
    stopped: list[str] = field(default_factory=list)

    def write(self) -> None:
        """Raises OSError. Whole or not at all, and on the disk."""
        # What is empty, an earlier version of the stack may not know.
        known = {name: one for name, one in asdict(self).items() if one not in ([], {})}
        dotenv.replace_file(JOURNAL, json.dumps(known))

    def end(self) -> None:
        for container in self.stopped:
            docker("start", container, check=False)
        JOURNAL.unlink()
        major.forget_images(self.images)


def under_way() -> Journal | None:
    return Journal(**json.loads(JOURNAL.read_text())) if JOURNAL.exists() else None


def switch(config: Config, journal: Journal, fill: Callable[[], None]) -> None:
    """Stop the slots, fill the new volume, start on it. Raises Stop, having said what serves then."""
    ours = {*config.processes, *OF_THE_STACK}
    found = [one for one in slots.containers(config.project) if one.process and one.running]
    others = [one for one in found if one.service not in ours]
    known = compose("--profile", "*", "config", "--services").stdout.split() if others else []
    journal = replace(journal, stopped=[one.id for one in others if one.service in known])
    with major.put_back_on_failure(journal.images), uninterrupted():
        try:
            journal.write()
        except OSError:
            JOURNAL.unlink(missing_ok=True)
            raise
    with interrupted_once(), contextlib.ExitStack() as held:
        try:
            # One that began since.
            refuse_programs(config.project)
            if not maintenance.switched():
                maintenance.switch_on(config, [], journal.verb)
            with step("Stop the slots"):
                compose("stop", *config.processes, *slots.SLOTS)
                for one in others:
                    docker("stop", one.id, despite=GONE)
            create(config, journal.new)
            fill()
            # Within: an interruption comes before it, and leads back, or waits for the end.
            held.enter_context(uninterrupted())
            starting = replace(journal, phase="starting")
            starting.write()
        except BaseException:
            with uninterrupted():
                back_to_old_volume(config, journal)
            raise
        go_on(config, starting)


def refuse_programs(project: str) -> None:
    """Raises Stop while a program of `./stack run` is at work: what it writes now would be in the old volume alone."""
    labels = {"project": project, "oneoff": "True", "service": RUN}
    filters = [f"--filter=label=com.docker.compose.{name}={value}" for name, value in labels.items()]
    if mine := docker("ps", *filters, "--format", "{{.Names}}").stdout.split():
        raise Stop(f"A program of `./stack run` is at work. Wait for its end, or end it: docker stop {' '.join(mine)}")


def go_on(config: Config, journal: Journal) -> None:
    """Start on the new volume. Raises Stop; where nothing could be reached on it, the old one serves then."""
    override(VOLUME_SETTING, None)
    dotenv.write({VOLUME_SETTING: journal.new}, REASON)
    try:
        with step("Start Postgres on it"):
            compose("up", "--detach", "--wait", "--no-deps", "postgres")
            for container in running(config.project, "postgres"):
                docker("exec", "--user", "barman", container, "psql", "-XqAtc", SLOT, "postgres")
        with step("Start the slots"):
            rollout.start(config, None)
        with step("Wait for an answer"):
            ask.wait_for(config, "the app and its database did not answer", {"database": "ok"})
    except Stop:
        slots.show_evidence(config.project)
        if journal.old and not slots.serving(config.project):
            back_to_old_volume(config, journal)
        else:
            maintenance.end_of_verbs(config)
            slots.take_snapshot()
            journal.end()
            print(f"The volume {journal.new} is in use, and stays so: `./stack up` tries again.", file=sys.stderr)
        raise
    maintenance.end_of_verbs(config)
    slots.take_snapshot()
    replace(journal, images={}).end()
    # It serves, and stays, if they are not well.
    try:
        with step("Start the backups"):
            slots.start_backup()
            inside(config.project, "received")
    except Stop as failure:
        print(f"The backups are not well: {failure}", file=sys.stderr)
    major.forget_images(journal.images)


def back_to_old_volume(config: Config, journal: Journal) -> None:
    """To the old volume, as it was served. A new one that no server has run on is removed.

    Where nothing answers on the old one either, it says so: that is what the next verb begins with.
    """
    major.put_back(journal.images)
    override(VOLUME_SETTING, None)
    if journal.phase == "filling":
        remove_unused(journal.new)
    else:
        # Killed on this way, nobody may go on to the new volume: somebody may have written to the old one by then.
        replace(journal, phase="back").write()
        compose("rm", "--stop", "--force", *config.processes, *slots.SLOTS, "postgres", check=False)
        print(f"The volume {journal.new} stays: Postgres ran on it.", file=sys.stderr)
        dotenv.write({VOLUME_SETTING: str(journal.old)}, REASON)
    if not journal.old:
        # The journal stays too, or the next `./stack up` would begin with an empty database.
        print("There was no database here to go back to: nothing was started.", file=sys.stderr)
        return
    with step("Go back to the old volume"):
        # One that is being stopped, for a job in flight, would stay so.
        compose("stop", *config.processes, check=False) if config.processes else None
        for known, files in as_served(config, journal.old):
            try:
                rollout.start(known, None, files)
                slots.start_backup(files)
                ask.wait_for(known, "the app and its database did not answer", {"database": "ok"})
                break
            except Stop as failure:
                print(failure, file=sys.stderr)
        else:
            slots.show_evidence(config.project)
            print(f"The volume {journal.old} is in use again: `./stack up` tries again.", file=sys.stderr)
    maintenance.end_of_verbs(known)
    journal.end()


def as_served(config: Config, volume: str) -> list[tuple[Config, tuple[str, ...]]]:
    """The configuration that served on the volume, with Compose's options for it, and then the one that is here.

    What is here may be why it failed. What served may be possible no more, where a port is taken, say.
    """
    with contextlib.suppress(OSError, KeyError, Stop):
        # One that an earlier version of the stack wrote may lack something.
        served = parse(slots.SNAPSHOT.read_text("utf-8"))
        if served.volumes["postgres-data"] == volume:
            return [(served, slots.AS_SERVED), (config, ())]
    return [(config, ())]


def settle(config: Config, again: bool = False) -> Config:
    """Bring what a killed restore or upgrade left to its end; return the configuration after it. Raises Stop.

    `again`: another one begins, so that a database to go back to isn't needed.
    """
    # Of another user's only `up` has to say that.
    with contextlib.suppress(PermissionError):
        open_routes()
    journal = under_way()
    if not journal:
        # Killed in between: nothing is under way.
        maintenance.end_of_verbs(config)
        snapshot.catch_up(config.project)
        return config
    not_ended = f"`./stack {journal.verb}` did not come to its end"
    with uninterrupted():
        if journal.phase == "starting":
            print(f"{not_ended}: going on with {journal.new}.", file=sys.stderr)
            go_on(config, journal)
        elif journal.old:
            print(f"{not_ended}: back to {journal.old}.", file=sys.stderr)
            back_to_old_volume(config, journal)
        elif again:
            remove_unused(journal.new)
        else:
            raise Stop(
                f"{not_ended}, and there was no database before it: run it again. "
                f"To begin with an empty database instead: rm {JOURNAL}",
                2,
            )
    return configuration()


def begin(config: Config, verb: str, new: str, images: dict[str, str] | None = None) -> Journal:
    """What is about to be done: `new` takes the place of the volume that holds the database now, if one does.

    Raises Stop.
    """
    refuse_programs(config.project)
    old, image = config.volumes["postgres-data"], config.services["postgres"].image
    owner.refuse_unused(config)
    return Journal(verb, new, old if holds_database(old, image) else None, images=images or {})


def create(config: Config, volume: str) -> None:
    """A volume that Compose takes for its own."""
    labels = (f"com.docker.compose.project={config.project}", "com.docker.compose.volume=postgres-data")
    docker("volume", "create", *(word for label in labels for word in ("--label", label)), volume)


def remove_unused(volume: str) -> None:
    deadline = time.monotonic() + AT_ONCE
    while has_volume(volume):
        # What a helper that was killed with its command left, or is about to be gone: a volume in use can't be removed.
        for container in docker("ps", "--all", "--quiet", "--filter", f"volume={volume}").stdout.split():
            remove_container(container)
        if not docker("volume", "rm", volume, check=False).returncode or time.monotonic() > deadline:
            return
        time.sleep(0.2)
