"""The base images: the official ones, or their stand-ins where no registry can be reached."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from offline import images
from ops import dotenv
from ops.config import Config
from ops.machine.checks import check_room
from ops.run import Stop, docker, has_volume, step, uninterrupted

# The registry did not answer, as opposed to: it answered no.
UNREACHABLE = (
    r"no such host|i/o timeout|connection refused|network is unreachable|no route to host|deadline exceeded|lookup "
    r"|Client\.Timeout|handshake timeout"
)


# What says which app it is: for a project of its own, too.
APP_SETTINGS = ("APP_DIR", "APP_DOCKERFILE", "APP_IMAGE", "APP_ENTRYPOINT", "APP", "MIGRATE")


def build_settings(config: Config) -> dict[str, str]:
    """The settings that say what is built: of which app, and on which bases."""
    own = {name: dotenv.chosen(name) for name in APP_SETTINGS}
    return {**chosen_bases(config), **{name: value for name, value in own.items() if value}}


def chosen_bases(config: Config) -> dict[str, str]:
    """The base image that each of the settings for them names."""
    arguments: dict[str, str] = {}
    for service in config.services.values():
        arguments.update({k: v for k, v in service.arguments.items() if k in images.STAND_INS})
    # As docs/processes.md has it in compose.override.yaml.
    if "redis" in config.accessories and not config.services["redis"].build:
        arguments["REDIS_IMAGE"] = config.services["redis"].image
    return arguments


def base_images(config: Config) -> None:
    """The official images, or their stand-ins where no registry can be reached: that choice is kept in .env."""
    missing = {setting: image for setting, image in chosen_bases(config).items() if not images.exists(image)}
    chosen: dict[str, str] = {}
    originals = bool(missing) and serves_on_originals(config)
    for setting, image in missing.items():
        stand_in = images.STAND_INS[setting][0]
        # One that could not be reached is enough to go by, but what the user named is never replaced.
        if image != stand_in and (dotenv.chosen(setting) or not chosen):
            with step(f"Pull {image}"):
                pulled = docker("pull", "--quiet", image, check=False)
            if not pulled.returncode:
                continue
            if originals or dotenv.chosen(setting) or not re.search(UNREACHABLE, pulled.stderr):
                raise Stop(f"{setting}={image} can't be pulled: {pulled.stderr.strip()}")
        with step(f"Build a stand-in for {image}: no registry can be reached"):
            try:
                images.build(setting)
            except OSError as error:
                raise Stop(f"There is no way to get {image}: {error}") from None
        if image != stand_in:
            chosen[setting] = stand_in
    if chosen:
        dotenv.write(chosen, "Stand-ins for images of a registry that could not be reached. Written by ./stack.")


def serves_on_originals(config: Config) -> bool:
    """Whether a release, or its data, is of the official images: it stays on them, however long no registry answers."""
    if not dotenv.read("RELEASE") or any(one.startswith(images.OURS) for one in chosen_bases(config).values()):
        return False
    return images.exists(config.services["app-1"].image) or has_volume(config.volumes["postgres-data"])


@contextlib.contextmanager
def newest_bases(config: Config) -> Iterator[None]:
    """Within, the base images are those that their registries have now; says which are others. Raises Stop.

    After a failure, of what is within too, they are those from before. Those that have no name any more are removed.
    """
    bases = chosen_bases(config)
    made_here = [image for image in bases.values() if image.startswith(images.OURS)]
    if made_here:
        raise Stop(
            f"No registry has {', '.join(made_here)}: made here for want of one. Where one can be reached, take these "
            "lines out of .env."
        )
    check_room(pull=True)
    before, after, lines = {image: known(image) for image in bases.values()}, [], []
    try:
        for setting, image in bases.items():
            with step(f"Pull {image}"):
                pulled = docker("pull", "--quiet", image, check=False)
            if pulled.returncode:
                raise Stop(f"{setting}={image} can't be pulled. Nothing was changed. {pulled.stderr.strip()}")
            after.append(known(image))
            old, now = before[image].digest, after[-1].digest
            lines.append(f"{image}: {now}, as before" if old == now else f"{image}: {old or 'nothing'} -> {now}")
        print("\n".join(lines), flush=True)
        yield
    except BaseException:
        with uninterrupted():
            for image, found in before.items():
                if found.id and found.id != known(image).id:
                    docker("tag", found.id, image, check=False)
        raise
    finally:
        tags = "{{range .RepoTags}}{{println .}}{{end}}"
        # One that is named by its digest has no tag either.
        named = {"", *(known(image).id for image in before)}
        for one in {found.id for found in (*before.values(), *after)} - named:
            if not docker("image", "inspect", "--format", tags, one, check=False).stdout.strip():
                docker("image", "rm", one, check=False)


@dataclass(frozen=True)
class Base:
    """What is here under an image's name; empty where nothing is."""

    id: str = ""
    # That its registry knows it by; empty for one that came from none.
    digest: str = ""


def known(image: str) -> Base:
    lines = "{{println .Id}}{{range .RepoDigests}}{{println .}}{{end}}"
    found = docker("image", "inspect", "--format", lines, image, check=False).stdout.split()
    return Base(found[0], found[-1].partition("@")[2]) if found else Base()
