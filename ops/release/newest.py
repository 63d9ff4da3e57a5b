"""`./stack up --pull`: the base images that their registries have now, put into service as a release is."""

from __future__ import annotations

from ops import dotenv
from ops.config import project_name
from ops.machine.checks import configuration
from ops.machine.images import newest_bases
from ops.machine.install import ensure_docker
from ops.release import releases
from ops.release.deploy import deploy
from ops.release.up import up
from ops.run import Stop, running


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
