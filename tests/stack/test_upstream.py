"""Between Traefik and the slots: connections that are used again."""

import asyncio
import time
from collections import Counter
from pathlib import Path

import httpx2

from tests.stack.stacks import Stack, inspect

CLIENTS, REQUESTS = 32, 60


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
    # Each client's on either slot, and those of the probes, two a second, which read no answer to its end.
    assert len(opened) < 2 * CLIENTS + 2 * (took + 2)
