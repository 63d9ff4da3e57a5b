"""Between Traefik and the slots: connections that are used again, and what Traefik's log says of a request."""

import asyncio
import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.stack.load import untrusting
from tests.stack.stacks import Stack, inspect, run, wait_until
from tests.stack.test_overload import away

CLIENTS, REQUESTS = 32, 60
# What a line of Traefik's log has; the last three are the logger's own.
FIELDS = {"ClientHost", "RequestMethod", "RequestPath", "DownstreamStatus", "Duration", "ServiceAddr"}
FIELDS |= {"time", "level", "msg"}


def connections(stack: Stack) -> dict[str, str]:
    """Traefik's connections to the slots' port: the local address of each, and its state as the kernel names it."""
    pid = inspect(stack.container("traefik"))["State"]["Pid"]
    lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    states = {"01": "established", "06": "time wait"}
    return {line[1]: states.get(line[3], line[3]) for line in lines if line[2].endswith(":1F40")}


def test_connections_to_the_slots_are_kept(stack: Stack) -> None:
    """Under load from 32 clients no connection is opened for a request while another one is idle."""
    before = connections(stack)

    async def ask(client: httpx2.AsyncClient) -> None:
        for _ in range(REQUESTS):
            assert (await client.get("/")).status_code == 200

    async def everyone() -> None:
        limits = httpx2.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
        async with httpx2.AsyncClient(base_url=stack.address, verify=False, timeout=30, limits=limits) as client:
            await asyncio.gather(*(ask(client) for _ in range(CLIENTS)))

    begun = time.monotonic()
    asyncio.run(everyone())
    took = time.monotonic() - begun
    opened = {address: state for address, state in connections(stack).items() if address not in before}
    print(f"{CLIENTS * REQUESTS} requests in {took:.1f} s opened {Counter(opened.values())}")
    # Each client's on either slot, and those of the probes, four a second, which read no answer to its end.
    assert len(opened) < 2 * CLIENTS + 4 * (took + 2)


CONNECTIONS = "OUTPUT --protocol tcp --syn --match multiport --dports 8000,8001 --jump DROP"
# As they come in: Traefik would be told of what is dropped on its way out.
LOOKUPS = "INPUT --protocol udp --destination 127.0.0.11 --jump DROP"
DROPS = pytest.mark.skipif(os.geteuid() != 0, reason="drops packets in Traefik's network")


@contextlib.contextmanager
def dropped(stack: Stack, rule: str) -> Iterator[None]:
    """What the rule names gets lost in Traefik's network meanwhile."""
    pid = inspect(stack.container("traefik"))["State"]["Pid"]
    inside = ["nsenter", f"--net=/proc/{pid}/ns/net", "iptables", "--wait"]
    run(*inside, "--insert", *rule.split())
    try:
        yield
    finally:
        run(*inside, "--delete", *rule.split())


@DROPS
def test_slots_that_say_nothing(stack: Stack) -> None:
    """As the address of one that has just gone: 503 and when to ask again, long before the last probe's minute."""
    with dropped(stack, CONNECTIONS):
        wait_until(lambda: away(stack), seconds=30)
    wait_until(stack.both_slots_answer)


@DROPS
@pytest.mark.parametrize(("rule", "seconds"), [(CONNECTIONS, 1.5), (LOOKUPS, 15)], ids=["connections", "lookups"])
def test_slots_that_are_hard_to_reach(stack: Stack, rule: str, seconds: float) -> None:
    """As where a busy engine says late where a slot is, or nothing for a while: requests wait, none fails."""
    answers = Counter[int]()

    async def ask() -> None:
        async with httpx2.AsyncClient(base_url=stack.address, verify=False, timeout=60) as client:
            while time.monotonic() < until:
                answers[(await client.get("/")).status_code] += 1

    async def everyone() -> None:
        await asyncio.gather(*(ask() for _ in range(CLIENTS)))

    def block() -> None:
        with dropped(stack, rule):
            time.sleep(seconds)  # the time is what is tested

    async def both() -> None:
        await asyncio.gather(everyone(), asyncio.to_thread(block))

    until = time.monotonic() + seconds + 2
    asyncio.run(both())
    print(answers)
    assert answers.keys() == {200}
    wait_until(stack.both_slots_answer)


def lines(stack: Stack, since: str) -> list[dict[str, object]]:
    """What Traefik logged of requests since then."""
    log = run("docker", "logs", "--since", since, stack.container("traefik"))
    return [json.loads(line) for line in log.splitlines() if '"RequestPath"' in line]


@pytest.mark.parametrize("scheme", ["https", "wss"])
def test_log_line(stack: Stack, scheme: str) -> None:
    """A line has what operators look for, and no query: what stands in that is between the client and the app."""
    since = f"{time.time():.6f}"
    with stack.client() as client:
        # What Traefik answers itself has no line.
        assert client.get(f"http://localhost:{stack.http_port}/?q=between-us").is_redirect
        assert client.get("/ready?q=between-us").status_code == 404
        if scheme == "https":
            client.get("/items/5?q=between-us")
    if scheme == "wss":
        address = f"wss://localhost:{stack.https_port}/items/5?q=between-us"
        with pytest.raises(InvalidStatus), connect(address, ssl=untrusting()):
            pass
    wait_until(lambda: bool(lines(stack, since)))
    [line] = lines(stack, since)
    assert line.keys() == FIELDS
    assert (line["RequestMethod"], line["RequestPath"]) == ("GET", "/items/5")
    assert "between-us" not in run("docker", "logs", "--since", since, stack.container("traefik"))
