"""What must be in the database, and what may be: from what its clients were told, and when."""

import threading
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self

import httpx2

from tests.stack.stacks import PATIENCE, Clone, wait_until

FOREVER = datetime.max.replace(tzinfo=UTC)


def now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Write:
    """One note: when it was asked for, and when it was acknowledged, if it was."""

    mark: str
    asked: datetime
    answered: datetime = FOREVER


@dataclass
class Epoch:
    """From one restore to the next: what was there when it began, and what was written since."""

    begun: datetime
    base: frozenset[str] = frozenset()
    writes: list[Write] = field(default_factory=list)

    def must(self, until: datetime) -> set[str]:
        return {*self.base, *(one.mark for one in self.writes if one.answered < until)}

    def may(self, until: datetime) -> set[str]:
        return {*self.base, *(one.mark for one in self.writes if one.asked <= until)}


class Ledger(threading.Thread):
    """Writes a note every 50 ms while it isn't paused, and knows what the answers promised."""

    def __init__(self, clone: Clone) -> None:
        super().__init__(daemon=True)
        self.clone = clone
        self.epochs = [Epoch(now())]
        self.ending, self.resting, self.rests = threading.Event(), threading.Event(), threading.Event()
        self.acknowledged = self.refused = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self.join()

    def run(self) -> None:
        while not self.ending.is_set():
            with self.clone.client() as client:
                while not self.ending.wait(0.05):
                    if self.resting.is_set():
                        self.rests.set()
                        continue
                    self.write(client)

    def write(self, client: httpx2.Client) -> None:
        # Into the newest epoch, whichever it is by the time of the answer: see `divide`.
        one = Write(uuid.uuid4().hex, now())
        self.epochs[-1].writes.append(one)
        try:
            if client.post("/notes", json={"text": one.mark}, timeout=20).status_code == 201:
                one.answered = now()
                self.acknowledged += 1
                return
        except httpx2.HTTPError:
            pass
        self.refused += 1

    def pause(self) -> None:
        """Return once no write is under way."""
        self.rests.clear()
        self.resting.set()
        assert self.rests.wait(PATIENCE)

    def go_on(self) -> None:
        self.resting.clear()

    def wait_for_writes(self, count: int, seconds: float = PATIENCE) -> None:
        """Wait until so many more are acknowledged."""
        wanted = self.acknowledged + count
        wait_until(lambda: self.acknowledged >= wanted, seconds)

    def stored(self) -> set[str]:
        """The marks that the database holds, asked for on the server itself. Raises AssertionError when it is away."""
        found = self.clone.psql("SELECT text FROM notes").split()
        assert len(found) == len(set(found)), "a note is there twice"
        return set(found)

    def epoch_at(self, moment: datetime) -> Epoch:
        return [one for one in self.epochs if one.begun <= moment or one is self.epochs[0]][-1]

    def wrong(self, first: Epoch, surely: datetime, maybe: datetime, since: datetime = FOREVER) -> str | None:
        """What is wrong with the database as it is now; None when nothing is. The writer rests.

        It must hold what `first` held `surely` by then, and nothing that it did not hold `maybe`; and all that was
        written to the newest epoch `since`, from when on nobody could write to what was there before.
        """
        newest = self.epochs[-1].writes
        must = first.must(surely) | {one.mark for one in newest if since <= one.answered < FOREVER}
        may = first.may(maybe) | {one.mark for one in newest if one.asked >= since}
        there = self.stored()
        if must - there:
            return f"{len(must - there)} of {len(must)} acknowledged writes are missing"
        if there - may:
            return f"{len(there - may)} writes are there that should not be"
        return None

    def divide(self, begun: datetime) -> None:
        """The database was restored, and since `begun` is as it is: an epoch of its own. The writer rests."""
        later = [one for one in self.epochs[-1].writes if one.asked >= begun or begun <= one.answered < FOREVER]
        self.epochs.append(Epoch(begun, frozenset(self.stored() - {one.mark for one in later}), later))
