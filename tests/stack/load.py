"""An open-loop load: requests are sent on a schedule, whatever the answers, and their latency counts from it.

A closed loop would wait while nothing answers, and so count one slow request where a hundred users waited.
"""

import asyncio
import itertools
import ssl
import statistics
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import httpx2

from tests.stack.stacks import wait_until

# Seconds between two requests of a note's life: create, read, replace, read, delete.
STEP = 0.5
SLOW_SECONDS = 2
# Seconds that this client may be late by itself, on a machine that stands still or is busy: what it has missed then is
# not sent, for all at once it would be a load that no test asks for.
LATE = 1


def untrusting() -> ssl.SSLContext:
    """For the self-signed certificate of localhost: whom to trust is another test's business."""
    return ssl._create_unverified_context()  # noqa: S323


@dataclass
class Sample:
    """One request; times are seconds of time.monotonic(). `failure` is empty when the answer was right."""

    kind: str
    scheduled: float
    sent: float = 0
    ended: float = 0
    failure: str = ""

    @property
    def latency(self) -> float:
        return self.ended - self.scheduled


@dataclass
class Note:
    """What the answers said of one note: `text` is what must be stored now, None when nothing must."""

    mark: str
    text: str | None = None
    # A request failed whose effect nobody can know.
    unsure: bool = False


@dataclass
class Load:
    """Requests to `address` at `rate` a second from __enter__ to __exit__, over every kind of connection.

    A fifth each: pages, a slow page (if the app has `/slow`), and lives of notes over new and kept connections with
    HTTP/1.1 and HTTP/2.
    """

    address: str
    rate: float = 20
    slow: bool = True
    # Pages of another app, in place of all that, and what they are asked with.
    paths: tuple[str, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.ending = threading.Event()
        # Once: it takes 20 ms.
        self.context = untrusting()
        self.thread = threading.Thread(target=lambda: asyncio.run(self.run()))
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Send no more, and wait for the last answer."""
        self.ending.set()
        self.thread.join()

    async def run(self) -> None:
        begun = time.monotonic()
        # The group last: it waits for the last answer before the clients close.
        async with self.client(True) as http2, self.client(False) as http1, asyncio.TaskGroup() as group:
            self.kept = {"h1": http1, "h2": http2}
            for number in itertools.count():
                scheduled = begun + number / self.rate
                await asyncio.sleep(scheduled - time.monotonic())
                if (late := time.monotonic() - scheduled) > LATE:
                    begun, scheduled = begun + late, scheduled + late
                if self.ending.is_set():
                    break
                # A note's life is five requests: a fifth as many are begun.
                way = ("h1", "h2", "new")[number % 3]
                if self.paths:
                    group.create_task(self.send(scheduled, way, "GET", self.paths[number % len(self.paths)], 200))
                elif number % 10 == 0:
                    group.create_task(self.slow_page(scheduled, way))
                elif number % 5 == 0:
                    group.create_task(self.life(scheduled, way))
                elif number % 5 < 3:
                    group.create_task(self.page(scheduled, way))

    def client(self, http2: bool) -> httpx2.AsyncClient:
        limits = httpx2.Limits(max_connections=200)
        return httpx2.AsyncClient(
            base_url=self.address,
            headers=self.headers,
            verify=self.context,
            http2=http2,
            timeout=30,
            limits=limits,
        )

    @asynccontextmanager
    async def connection(self, way: str) -> AsyncIterator[httpx2.AsyncClient]:
        if way == "new":
            async with self.client(False) as client:
                yield client
        else:
            yield self.kept[way]

    async def send(self, scheduled: float, way: str, method: str, path: str, status: int, **options: Any) -> Any:
        """Send one request; return the answer's JSON, None when it failed."""
        await asyncio.sleep(scheduled - time.monotonic())
        sample = Sample(f"{method} {path.partition('?')[0]} {way}", scheduled, sent=time.monotonic())
        body = None
        try:
            async with self.connection(way) as client:
                answer = await client.request(method, path, **options)
            if answer.status_code != status:
                # By that one sees who said 503: the app, or Traefik where no slot serves, or Traefik alone, without it.
                after = answer.headers.get("Retry-After")
                sample.failure = f"{answer.status_code}, Retry-After {after}: {answer.text[:200]}"
            else:
                # A page may be HTML, and a 204 says that its nothing is JSON.
                is_json = answer.content and "json" in answer.headers.get("Content-Type", "")
                body = answer.json() if is_json else {}
        except httpx2.LocalProtocolError:
            # This client's own, on a busy machine: it ends a body by an empty frame, when Traefik has had all of it and
            # has answered, and takes for an error that the stream is over. What became of the request is unsure.
            pass
        except (httpx2.HTTPError, OSError, ssl.SSLError) as error:
            sample.failure = repr(error)
        sample.ended = time.monotonic()
        self.samples.append(sample)
        return body

    def wrong(self, what: str, got: Any) -> None:
        self.samples[-1].failure = f"{what}: {got}"

    async def page(self, scheduled: float, way: str) -> None:
        got = await self.send(scheduled, way, "GET", "/items/5?q=somequery", 200)
        if got is not None and got != {"item_id": 5, "q": "somequery"}:
            self.wrong("another page", got)

    async def slow_page(self, scheduled: float, way: str) -> None:
        if self.slow:
            await self.send(scheduled, way, "GET", "/slow", 200)

    async def life(self, begun: float, way: str) -> None:
        """A note created, read, replaced, read again and, every other, deleted; each step at its own time."""
        note = Note(uuid.uuid4().hex)
        self.notes.append(note)
        first, second = f"{note.mark} first", f"{note.mark} second"
        made = await self.send(begun, way, "POST", "/notes", 201, json={"text": first})
        if made is None:
            note.unsure = True
            return
        note.text = first
        path = f"/notes/{made['id']}"
        await self.read(begun + STEP, way, path, note)
        if await self.send(begun + 2 * STEP, way, "PUT", path, 200, json={"text": second}) is None:
            note.unsure = True
            return
        note.text = second
        await self.read(begun + 3 * STEP, way, path, note)
        if len(self.notes) % 2:
            if await self.send(begun + 4 * STEP, way, "DELETE", path, 204) is None:
                note.unsure = True
            note.text = None

    async def read(self, scheduled: float, way: str, path: str, note: Note) -> None:
        got = await self.send(scheduled, way, "GET", path, 200)
        if got is not None and got["text"] != note.text:
            self.wrong(f"not what was written, {note.text}", got)

    @property
    def failed(self) -> list[Sample]:
        return [sample for sample in self.samples if sample.failure]

    def in_flight(self, moment: float) -> list[Sample]:
        return [sample for sample in self.samples if sample.sent <= moment < sample.ended]

    def quantile(self, percent: int, since: float = 0, until: float = float("inf")) -> float:
        """Seconds within which that share of the quick requests sent in that time was answered."""
        found = [one.latency for one in self.samples if since <= one.sent < until and "/slow" not in one.kind]
        return statistics.quantiles(found, n=100)[percent - 1]

    def longest_gap(self, since: float = 0) -> float:
        """Seconds between two right answers, at most."""
        right = sorted(one.ended for one in self.samples if not one.failure and one.ended >= since)
        return max(later - earlier for earlier, later in itertools.pairwise(right))

    def stored(self) -> dict[str, list[str]]:
        """The texts in the database that are of this load, by their note's mark."""
        found: dict[str, list[str]] = {note.mark: [] for note in self.notes}
        after: int | None = None
        with httpx2.Client(base_url=self.address, verify=self.context) as client:
            while page := client.get("/notes", params={"limit": 100, **({"after": after} if after else {})}).json():
                for one in page:
                    found.setdefault(one["text"][:32], []).append(one["text"])
                after = page[-1]["id"]
        return found

    def lost_or_doubled(self) -> list[str]:
        """Every note that is not stored as its answers said, a failed request's unknown effect aside."""
        stored = self.stored()
        wrong = []
        for note in self.notes:
            texts = stored[note.mark]
            right = len(texts) <= 1 if note.unsure else texts == ([note.text] if note.text else [])
            if not right:
                wrong.append(f"{note} stored as {texts}")
        return wrong

    def report(self) -> str:
        return (
            f"{len(self.samples)} requests, {len(self.failed)} failed, p50 {self.quantile(50) * 1000:.0f} ms, "
            f"p99 {self.quantile(99) * 1000:.0f} ms, longest gap {self.longest_gap() * 1000:.0f} ms"
        )


@contextmanager
def none_fails(address: str) -> Iterator[Load]:
    """Load meanwhile, and until there was enough of it, of which nothing may fail, be lost or be doubled."""
    with Load(address) as load:
        yield load
        wait_until(lambda: len(load.samples) > 100)
    print(load.report())
    assert not load.failed, load.failed
    assert load.lost_or_doubled() == []
