"""By what a backup volume knows its own signs of life in a bucket: each has a word of its own, at random.

A copy of the volume, on a copy of the machine say, has its name too. It does not know the words of later signs.
"""

import contextlib
import json
import threading
import uuid
from collections.abc import Iterator
from typing import Any

from backup.server import VOLUME, whole, write

FILE, NAME = VOLUME / "signs", VOLUME / "id"
# Of those that were sent: somebody may still look at an earlier one.
KEPT = 5
# Two that are sent at once could arrive in another order than they are remembered in.
sending = threading.Lock()


def ours() -> str:
    """The name of this backup volume, at random."""
    if not NAME.exists():
        write(NAME, str(uuid.uuid4()))
    return NAME.read_text()


def is_ours(owner: dict[str, Any], place: list[str]) -> bool:
    """Whether this very volume left that sign there, and no copy of it. An older version's has no word."""
    return owner.get("id") == ours() and ("sign" not in owner or owner["sign"] in words(place))


def words(place: list[str]) -> list[str]:
    """Those that this volume's sign may have there: of the last ones, and of one that may have been sent."""
    found = whole(FILE).get("\n".join(place), {})
    return [*found.get("sent", ()), *found.get("next", ())]


@contextlib.contextmanager
def word(place: list[str]) -> Iterator[str]:
    """The word of the sign that is sent within: it is remembered before. One that may not have arrived is sent again.

    Raises OSError.
    """
    with sending:
        every, here = whole(FILE), "\n".join(place)
        sent, following = every.get(here, {}).get("sent", []), every.get(here, {}).get("next", [])
        if not following:
            following = [str(uuid.uuid4())]
            try:
                write(FILE, json.dumps({**every, here: {"sent": sent, "next": following}}))
            except OSError:
                # The volume is full. The last one will do: it is known.
                if not sent:
                    raise
                following = sent[-1:]
        yield following[0]
        sent = [*(one for one in sent if one not in following), *following][-KEPT:]
        with contextlib.suppress(OSError):
            write(FILE, json.dumps({**every, here: {"sent": sent}}))
