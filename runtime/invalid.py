"""FastAPI's answer to a body that is not what a route takes, held to a size: 422, for any app.

FastAPI sends the input back with each thing that is wrong with it, encoded on the event loop: 1 MB of `[{},{},…]` for a
list of models made 27 MB, and took 18 s of a worker in which nobody else was served. An answer to a small mistake stays
as it is. The app's own handler, if it has one, is given the same.
"""

import sys
from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any

# Errors in one answer: more than anybody mends at once.
MOST_ERRORS = 100
# What the input in an error may have, in all its parts: values, and characters. Nesting counts as values do.
MOST_VALUES = 1_000
MOST_CHARACTERS = 10_000
# Mounted apps and middleware around one: as deep as anybody builds.
DEPTH = 10


def is_small(value: Any) -> bool:
    """Whether the value can be sent back; stops to count as soon as it can't."""
    values, characters = 0, 0
    waiting = [value]
    while waiting:
        one = waiting.pop()
        values += 1
        if isinstance(one, (str, bytes)):
            characters += len(one)
        elif isinstance(one, (dict, list, tuple, set)):
            if len(one) > MOST_VALUES:
                return False
            waiting += one
            if isinstance(one, dict):
                waiting += one.values()
        if values + len(waiting) > MOST_VALUES or characters > MOST_CHARACTERS:
            return False
    return True


def bounded(errors: Any) -> list[Any]:
    """The first of the errors, each without what is too large: its input, and as a last resort where it was."""
    found = []
    for error in errors[:MOST_ERRORS]:
        large = {name for name in ("input", "ctx") if not is_small(error.get(name))}
        kept = {name: value for name, value in error.items() if name not in large}
        if not is_small(kept.get("loc")):
            # A key of the input.
            kept["loc"] = tuple(part[:MOST_VALUES] if isinstance(part, str) else part for part in kept["loc"])
        found.append(kept)
    if len(errors) > MOST_ERRORS:
        said = f"{len(errors)} errors; these are the first {MOST_ERRORS}."
        found.append({"type": "too_many_errors", "loc": ("body",), "msg": said})
    return found


def bound(app: Any, depth: int = DEPTH) -> None:
    """Hold the app, those mounted in it and the one inside its middleware to this, where they are FastAPI's."""
    exceptions = sys.modules.get("fastapi.exceptions")
    handlers = getattr(app, "exception_handlers", None)
    if not exceptions or not depth:
        return
    kind = exceptions.RequestValidationError
    if isinstance(handlers, dict) and kind in handlers:
        handlers[kind] = around(handlers[kind], kind)
    for inner in (getattr(app, "app", None), *(getattr(route, "app", None) for route in getattr(app, "routes", ()))):
        bound(inner, depth - 1)


def around(handler: Callable[..., Any], kind: type[Any]) -> Callable[..., Any]:
    """The handler, for an error of this kind with what can be sent back."""

    def smaller(error: Any) -> Any:
        errors = error.errors()
        if len(errors) <= MOST_ERRORS and all(is_small(tuple(one.values())) for one in errors):
            return error
        return kind(bounded(errors), body=error.body)

    async def asynchronous(request: Any, error: Any) -> Any:
        return await handler(request, smaller(error))

    def synchronous(request: Any, error: Any) -> Any:
        return handler(request, smaller(error))

    return asynchronous if iscoroutinefunction(handler) else synchronous
