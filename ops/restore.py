"""`./stack restore`: the database as it was, in a new volume; the old one stays, and any failure goes back to it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from ops import ask, dotenv, major, slots
from ops.backup import answer, inside
from ops.build import build_all
from ops.checks import configuration
from ops.images import base_images
from ops.install import ensure_docker
from ops.lock import lock
from ops.run import Stop, compose, docker, step
from ops.words import size

ONE_SHOT = ("run", "--rm", "--no-deps", "-T")
SETTING = "POSTGRES_VOLUME"
REASON = "The volume that holds the data now. Written by ./stack."


def restore(to: str, yes: bool) -> None:
    begun = time.monotonic()
    ensure_docker()
    config = configuration()
    base_images(config)
    with lock("restore"):
        with step("Build the images"):
            release = build_all()
        major.refuse_another(config)
        plan = answer(*ONE_SHOT, "backup", "plan", to)
        old = config["volumes"]["postgres-data"]["name"]
        new = f"{config['name']}_postgres-{time.strftime('%Y%m%d%H%M%S', time.gmtime())}"
        show(plan, old, new)
        if not yes:
            confirm()
        switch(config, old, new, lambda: recover(to, new))
        slots.keep(release)
    print(f"\nRestored to {plan['to']}, in {time.monotonic() - begun:.1f} s.")
    if exists(old):
        print(f"The database as it was before is in the volume {old}. When you don't need it: docker volume rm {old}")


def show(plan: dict[str, Any], old: str, new: str) -> None:
    increments = f" and {plan['increments']} increments" if plan["increments"] else ""
    print(f"Restore to   {plan['to']}")
    print(f"starting at  the backup {plan['backup']} of {plan['ended']}{increments}, then the WAL since")
    print(f"into         the new volume {new}, about {size(plan['bytes'])}")
    print(f"instead of   {old}, which stays as it is, with all that was written since that moment.")
    print("The app answers 503 until it is done.", flush=True)


def confirm() -> None:
    if not sys.stdin.isatty():
        raise Stop("Nobody is there to be asked: --yes goes on without the question.", 2)
    if input("Go on? [y/N] ").strip().lower() not in ("y", "yes"):
        raise Stop("Nothing was changed.")


def switch(
    config: dict[str, Any], old: str, new: str, fill: Callable[[], None], undo: Callable[[], None] = lambda: None
) -> None:
    """Stop the slots, fill the new volume, start on it. A failure calls `undo`, and goes back to the old one."""
    had_old = exists(old)
    try:
        with step("Stop the slots"):
            compose("stop", *slots.SLOTS)
        create(config, new)
        fill()
        os.environ[SETTING] = new
        with step("Start Postgres on it"):
            compose("up", "--detach", "--wait", "--no-deps", "postgres")
        dotenv.write({SETTING: new}, REASON)
        with step("Start the slots"):
            slots.start_app()
        with step("Wait for an answer"):
            ask.wait_for(config, "the app and its database did not answer", {"database": "ok"})
    except BaseException as failure:
        if isinstance(failure, Stop):
            slots.show_evidence()
        undo()
        go_back(config, old if had_old else None, new)
        raise
    # Only now: they would follow a database that is given up again. It serves, and stays, if they are not well.
    try:
        with step("Start the backups"):
            slots.start_backup()
            inside("received")
    except Stop as failure:
        print(f"The backups are not well: {failure}", file=sys.stderr)


def go_back(config: dict[str, Any], old: str | None, new: str) -> None:
    if old is None:
        compose("rm", "--stop", "--force", "postgres", check=False)
        docker("volume", "rm", new, check=False)
        print("There is no old volume to go back to: nothing was started.", file=sys.stderr)
        return
    os.environ[SETTING] = old
    if dotenv.read(SETTING):
        dotenv.write({SETTING: old}, REASON)
    with step("Go back to the old volume"):
        slots.start_all()
        ask.wait_for(config, "the app and its database did not answer", {"database": "ok"})
    docker("volume", "rm", new, check=False)


def create(config: dict[str, Any], volume: str) -> None:
    """A volume that Compose takes for its own."""
    labels = (f"com.docker.compose.project={config['name']}", "com.docker.compose.volume=postgres-data")
    docker("volume", "create", *(word for label in labels for word in ("--label", label)), volume)


def recover(to: str, volume: str) -> None:
    """Restore into the volume, with the backup service's image; then it is made Postgres's own."""
    stop_postgres()
    with step("Restore into the new volume"):
        answer(*ONE_SHOT, "--volume", f"{volume}:/restore", "backup", "restore", to)
        give_to_postgres(volume)


def stop_postgres() -> None:
    with step("Stop Postgres, then the backup service, which has all that was written by then"):
        compose("stop", "postgres")
        compose("stop", "backup")


def give_to_postgres(volume: str) -> None:
    # Files belong to who restored them, and Postgres starts only on its own.
    rights = ("--user", "root", "--cap-drop", "ALL", "--cap-add", "CHOWN", "--cap-add", "DAC_OVERRIDE")
    closed = ("--rm", "--network", "none", *rights, "--volume", f"{volume}:/volume", "--entrypoint", "chown")
    image = compose("config", "--images", "postgres").stdout.split()[0]
    docker("run", *closed, image, "-R", "postgres:postgres", "/volume")


def exists(volume: str) -> bool:
    return docker("volume", "inspect", volume, check=False).returncode == 0
