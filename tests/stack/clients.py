"""Clients that write, read and look at /health all the while, and what they saw."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx2

from tests.stack.stacks import Stack, wait_until

# Seconds between two requests of one client.
PAUSE = 0.02
CLIENTS = {"write": 4, "read": 3, "plain": 2, "health": 1}
VERBS = {"write": ("POST", "/notes"), "read": ("GET", "/notes"), "plain": ("GET", "/"), "health": ("GET", "/health")}


@dataclass(frozen=True)
class Answer:
    """What a request got: `text` is what it wrote, or why there was no answer (status 0)."""

    kind: str
    begun: float
    seconds: float
    status: int
    retry_after: str | None
    text: str


@dataclass
class Clients:
    """Ten clients, each with its own connection: `answers` is what they got, oldest first."""

    stack: Stack
    answers: list[Answer] = field(default_factory=list)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        done = threading.Event()
        threads = [
            threading.Thread(target=self.run, args=(kind, f"{kind} {n}", done))
            for kind, count in CLIENTS.items()
            for n in range(count)
        ]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: len(self.answers) > 100)
            yield
        finally:
            done.set()
            for thread in threads:
                thread.join()

    def run(self, kind: str, name: str, done: threading.Event) -> None:
        verb, path = VERBS[kind]
        with self.stack.client() as client:
            while not done.wait(PAUSE):
                begun = time.monotonic()
                # As long as a note may be, so that a table grows quickly.
                text = f"{name} at {begun} {'x' * 9000}"
                try:
                    answer = client.request(verb, path, json={"text": text} if verb == "POST" else None)
                    status, retry_after = answer.status_code, answer.headers.get("Retry-After")
                except httpx2.HTTPError as error:
                    status, retry_after, text = 0, None, repr(error)
                seconds = time.monotonic() - begun
                self.answers.append(Answer(kind, begun, seconds, status, retry_after, text))

    def of(self, *kinds: str, since: float = 0, until: float = float("inf")) -> list[Answer]:
        """The answers to these kinds of request that were sent and answered in this time (time.monotonic())."""
        return [
            answer
            for answer in list(self.answers)
            if answer.kind in kinds and answer.begun >= since and answer.begun + answer.seconds <= until
        ]

    def well_again(self) -> float:
        """When the first request was sent after which none failed."""
        bad = [answer.begun for answer in list(self.answers) if answer.status not in (200, 201)]
        return max(bad, default=0)

    def all_well(self) -> bool:
        """Whether the newest answer to each kind of request was a right one."""
        newest = {answer.kind: answer.status for answer in list(self.answers)}
        return set(newest.values()) <= {200, 201}
