"""Slots that are too busy to answer their probes, and slots that are away: who answers, and what."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator

import httpx2
import pytest

from tests.stack.echo import Echo
from tests.stack.stacks import Stack, run, wait_until

SECONDS = 10
# Closed loops: each worker, one a slot here, has eight of 0.3 s before it, and a probe of Traefik's waits behind them.
CLIENTS = 16
# Traefik asks each slot every second. Where a probe has just been told a slot's address when the slot is killed, nobody
# says no to its connection: tcp_syn_retries in compose.yaml ends it, after seven seconds below Linux 6.5.
NOTICED = 15


@pytest.fixture(scope="module")
def lenient(echo: Echo) -> Iterator[Echo]:
    """The stack with time for a queue, which other tests' WRITE_TIMEOUT would cut off, and with a drain."""
    services = ("traefik", "app-1", "app-2")
    echo.recreate(*services, READ_TIMEOUT="60", WRITE_TIMEOUT="300", DRAIN_SECONDS="5")
    yield echo
    echo.recreate(*services)


def asked_all_the_while(echo: Echo, meanwhile: Callable[[], object] = lambda: None) -> dict[str, Counter[int]]:
    """What CLIENTS that ask for the route that blocks the loop, and one that asks for a light one, were answered."""
    answers: dict[str, Counter[int]] = {"/stall": Counter(), "/": Counter()}

    async def ask(path: str) -> None:
        async with httpx2.AsyncClient(base_url=echo.address, verify=False, timeout=30) as client:
            while time.monotonic() < end or not done.is_set():
                answers[path][(await client.get(path)).status_code] += 1

    async def everyone() -> None:
        await asyncio.gather(ask("/"), *(ask("/stall") for _ in range(CLIENTS)), during())

    async def during() -> None:
        await asyncio.sleep(SECONDS / 2)  # the moment is what is tested
        try:
            await asyncio.to_thread(meanwhile)
        finally:
            done.set()

    done = asyncio.Event()
    end = time.monotonic() + SECONDS
    asyncio.run(everyone())
    print(answers)
    return answers


def test_busy_slots_are_not_away(lenient: Echo) -> None:
    """A route that blocks the event loop for 0.3 s makes both slots late: every request is answered all the same."""
    since = f"{time.time():.3f}"
    container = lenient.container("traefik")

    def late() -> set[str]:
        log = run("docker", "logs", "--since", since, container)
        return {json.loads(line)["targetURL"] for line in log.splitlines() if "Health check failed" in line}

    # Until then the load has shown nothing.
    both = {"http://app-1:8000", "http://app-2:8000"}
    answers = asked_all_the_while(lenient, lambda: wait_until(lambda: late() == both, seconds=60))
    assert {status for found in answers.values() for status in found} == {200}


def test_stopping_a_busy_slot_drops_no_request(lenient: Echo) -> None:
    """A slot that drains takes itself out although its answer to a probe is late: no request is lost with it."""
    answers = asked_all_the_while(lenient, lambda: lenient.compose("restart", "app-1"))
    assert {status for found in answers.values() for status in found} == {200}


def test_a_slot_knows_whether_traefik_does(lenient: Echo) -> None:
    """`routed` is written down when Traefik has probed the slot, and not for the engine's own health check."""
    lenient.compose("stop", "traefik")
    lenient.compose("restart", "app-1")
    wait_until(lambda: lenient.compose("ps", "app-1", "--format", "{{.Health}}").strip() == "healthy")
    without = written_down(lenient)
    lenient.compose("start", "traefik")
    assert "routed" not in without
    wait_until(lambda: "routed" in written_down(lenient))
    wait_until(lenient.both_slots_answer)


def written_down(echo: Echo) -> list[str]:
    return run("docker", "exec", echo.container("app-1"), "cat", "/tmp/.stack/workers").splitlines()  # noqa: S108


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_away_while_both_slots_are(lenient: Echo, how: str) -> None:
    """With nobody to accept a connection: 503 and when to ask again, soon, and until a slot is back."""
    lenient.compose(how, "app-1", "app-2")
    try:
        wait_until(lambda: away(lenient), seconds=NOTICED)
        # `/ping` is what Traefik's own check asks, inside.
        answers = {away(lenient, path) for path in 10 * ("/", "/ping")}
    finally:
        lenient.compose("start", "app-1", "app-2")
        wait_until(lenient.both_slots_answer)
    assert answers == {True}


def away(stack: Stack, path: str = "/") -> bool:
    with stack.client() as client:
        answer = client.get(path, timeout=30)
    return answer.status_code == 503 and answer.headers.get("Retry-After") == "10"


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_the_apps_own_errors_pass(lenient: Echo, method: str, status: int) -> None:
    """A status that Traefik would use itself, said by the app: its own headers and body, and asked for once."""
    since = f"{time.time():.6f}"
    with lenient.client() as client:
        answer = client.request(method, f"/status/{status}", content=b"once" if method == "POST" else None)
    assert answer.status_code == status
    assert answer.json()["scheme"] == "https"
    assert "Retry-After" not in answer.headers
    assert lenient.seen(since) == [f"{method} /status/{status}"]
