"""FastAPI's answer to a body that is not what a route takes, held to a size: 422, for any app.

FastAPI sends the input back with each thing that is wrong with it, encoded on the event loop: 1 MB of `[{},{},…]` for a
list of models made 27 MB, and took 18 s of a worker in which nobody else was served. An answer to a small mistake stays
as it is. The app's own handler, if it has one, is told the same.
"""

import sys
from functools import wraps
from typing import Any

# Errors in one answer: more than anybody mends at once.
MOST_ERRORS = 100
# Errors that FastAPI may make: each takes 970 bytes and 25 µs before one is left out here. Of more there is the number.
MOST_MADE = 1_000
# What the input in an error may have, in all its parts: values, characters, and levels, each of which FastAPI's encoder
# takes several of Python's for.
MOST_VALUES = 1_000
MOST_CHARACTERS = 10_000
MOST_LEVELS = 100


def bound() -> None:
    """Hold what FastAPI says of wrong input to this, in every app of this process, where there is FastAPI."""
    kind: Any = getattr(sys.modules.get("fastapi.exceptions"), "RequestValidationError", None)
    # Before 0.100 it had no errors of its own to be given, but pydantic's.
    if hasattr(sys.modules.get("fastapi.exceptions"), "ValidationException"):
        kind.__init__ = small(kind.__init__)
    elif kind:
        all_errors = kind.errors
        kind.errors = lambda error: bounded(all_errors(error))
    # Of pydantic 1 there is none.
    if adapter := getattr(sys.modules.get("pydantic"), "TypeAdapter", None):
        adapter.validate_python = counting(adapter.validate_python)


def small(begin: Any) -> Any:
    """FastAPI's own, for whatever an app makes of the error: its errors(), its body, and its text."""

    @wraps(begin)
    def begun(error: Any, errors: Any, *, body: Any = None, **more: Any) -> None:
        # An app that raises it itself may give it something else.
        cut = bounded(errors) if all(isinstance(one, dict) for one in errors) else errors
        begin(error, cut, body=body if is_small(body) else None, **more)

    return begun


def counting(validate: Any) -> Any:
    """Pydantic's own, whose error has no more than the number where there are too many."""
    core: Any = sys.modules["pydantic_core"]

    @wraps(validate)
    def counted(*given: Any, **named: Any) -> Any:
        try:
            return validate(*given, **named)
        except core.ValidationError as error:
            title, number = error.title, error.error_count()
            # So FastAPI calls it. What the app itself does with pydantic is as it was.
            if number <= MOST_MADE or not named.get("from_attributes"):
                raise
        # Not from within, where it would keep all of the other.
        said = core.PydanticCustomError("too_many_errors", f"{number} errors: too many to say them.")
        raise core.ValidationError.from_exception_data(title, [{"type": said, "loc": (), "input": None}])

    return counted


def bounded(errors: Any) -> list[Any]:
    """The first of the errors, each without what is too large: its input, and as a last resort where it was."""
    found = []
    for error in errors[:MOST_ERRORS]:
        kept = {name: value for name, value in error.items() if name not in ("input", "ctx") or is_small(value)}
        if not is_small(kept.get("loc")):
            # A key of the input.
            kept["loc"] = tuple(part[:MOST_VALUES] if isinstance(part, str) else part for part in kept["loc"])
        found.append(kept)
    if len(errors) > MOST_ERRORS:
        said = f"{len(errors)} errors; these are the first {MOST_ERRORS}."
        found.append({"type": "too_many_errors", "loc": ("body",), "msg": said})
    return found


def is_small(value: Any) -> bool:
    """Whether the value can be sent back; stops to count as soon as it can't."""
    values, characters = 1, 0
    level, below = [value], list[Any]()
    for _ in range(MOST_LEVELS):
        for one in level:
            if isinstance(one, (str, bytes)):
                characters += len(one)
            elif isinstance(one, (dict, list, tuple, set)):
                if len(one) > MOST_VALUES:
                    return False
                below += [*one, *one.values()] if isinstance(one, dict) else one
            if values + len(below) > MOST_VALUES or characters > MOST_CHARACTERS:
                return False
        values += len(below)
        level, below = below, []
    return not level
