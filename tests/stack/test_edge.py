"""Changes of network, ports and volume on a stack that serves, and on one that such a change has broken."""

import json
import re
import socket
from collections.abc import Iterator

import pytest

from tests.stack.backups import stored
from tests.stack.stacks import Clone, inspect, run

# A change that only the engine can refuse, when what served is gone already.
REFUSED = "networks: {edge: {driver: no-such-driver}}\n"


def answers(clone: Clone) -> bool:
    with clone.client() as client:
        return client.get("/").status_code == 200


def edge_of(clone: Clone) -> tuple[list[str], bool]:
    """The addresses of the clients' network, and whether it has IPv6."""
    [found] = json.loads(run("docker", "network", "inspect", f"{clone.project}_edge"))
    return [one["Subnet"] for one in found["IPAM"]["Config"]], found["EnableIPv6"]


def labels(clone: Clone) -> list[str]:
    """As Compose marks a data volume of the project."""
    return [f"--label=com.docker.compose.{what}" for what in (f"project={clone.project}", "volume=postgres-data")]


@pytest.fixture
def taken() -> Iterator[str]:
    """Addresses that another of Docker's networks has."""
    name, subnet = "stack-test-taken", "10.191.255.0/28"
    run("docker", "network", "rm", name, check=False)
    run("docker", "network", "create", "--subnet", subnet, name)
    yield subnet
    run("docker", "network", "rm", name)


def test_wrong_settings_touch_nothing(serving: Clone, taken: str) -> None:
    """What can't be is said with its setting, before anything is stopped."""
    before = serving.container("traefik")
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = str(other.getsockname()[1])
        for settings, sentence in (
            ({"EDGE_SUBNET": taken}, f"EDGE_SUBNET={taken} is taken by Docker's network stack-test-taken"),
            ({"EDGE_SUBNET": "10.191.255.0/31"}, "EDGE_SUBNET=10.191.255.0/31 is wrong: a network of at least 8"),
            ({"EDGE_SUBNET": "10.191.255.1/28"}, "EDGE_SUBNET=10.191.255.1/28 is wrong: a network of at least 8"),
            ({"HTTP_PORT": port}, f"Port {port} is taken by another program"),
            ({"HTTPS_PORT": str(serving.http_port)}, "is wrong: HTTPS_PORT is the same."),
        ):
            done = serving.stack("up", **settings)
            assert done.returncode in (1, 2)
            assert sentence in done.stderr
    assert serving.container("traefik") == before
    assert answers(serving)


def test_volume_that_holds_no_database(serving: Clone) -> None:
    """Not there, or empty as plain Compose would make it: Postgres goes on with what it has, and so does the app."""
    before, name = serving.container("postgres"), f"{serving.project}_mistyped"
    with serving.client() as client:
        kept = client.post("/notes", json={"text": "kept"}).json()["id"]
        for _ in range(2):
            done = serving.stack("up", POSTGRES_VOLUME=name)
            assert done.returncode == 2
            assert f"POSTGRES_VOLUME is wrong: the volume {name} holds no database. What there is:" in done.stderr
            assert f"\n  {serving.project}_postgres-data  " in done.stderr
            assert serving.container("postgres") == before
            assert kept in stored(serving)
            run("docker", "volume", "create", *labels(serving), name)
    run("docker", "volume", "rm", name)
    assert serving.stack("up").returncode == 0


def test_env_that_was_copied_over(serving: Clone) -> None:
    """It names no release any more: what serves goes on, and nothing of the checkout is built."""
    env, main, before = serving.env_file.read_text(), serving.folder / "app/main.py", serving.container("app-1")
    code = main.read_text()
    serving.env_file.write_text(re.sub("(?m)^RELEASE=.*$", "", env))
    main.write_text(code + "\n# Not deployed.\n")
    try:
        done = serving.stack("up")
    finally:
        main.write_text(code)
    assert done.returncode == 0, done.stderr
    assert serving.container("app-1") == before
    assert set(env.splitlines()) <= set(serving.env_file.read_text().splitlines())


def test_change_that_fails_is_gone_back_from(serving: Clone) -> None:
    """What served serves again, with the settings that it had, although a deploy came between, which leaves them alone.

    `./stack up` with right ones goes on from there.
    """
    override = serving.folder / "compose.override.yaml"
    override.write_text(REFUSED)
    try:
        done = serving.stack("deploy")
        assert done.returncode == 0, done.stderr
        done = serving.stack("up")
    finally:
        override.unlink()
    assert done.returncode == 1
    assert "no-such-driver" in done.stderr
    assert "==> Go back to traefik, postgres as before: " in done.stderr
    assert answers(serving)
    assert serving.stack("up").returncode == 0


def test_up_mends_what_plain_compose_broke(serving: Clone) -> None:
    """A Traefik that a failed change left without its network is no obstacle."""
    override = serving.folder / "compose.override.yaml"
    override.write_text(REFUSED)
    try:
        assert "no-such-driver" in serving.compose("up", "--detach", check=False)
    finally:
        override.unlink()
    assert not inspect(serving.container("traefik"))["State"]["Running"]
    done = serving.stack("up")
    assert done.returncode == 0, done.stderr
    assert answers(serving)


def test_changes_go_through(serving: Clone) -> None:
    """Other addresses, then none of IPv6, then those of before."""
    before = edge_of(serving)
    for settings in ({"EDGE_SUBNET": "10.191.254.0/28"}, {"EDGE_IPV6": "false"}, {}):
        done = serving.stack("up", **settings)
        assert done.returncode == 0, done.stderr
        assert answers(serving)
        subnets, ipv6 = edge_of(serving)
        assert settings.get("EDGE_SUBNET", before[0][0]) in subnets
        assert ipv6 == (settings.get("EDGE_IPV6") != "false")
    assert edge_of(serving) == before
