"""How a line of the log looks: text, or JSON where LOG_FORMAT says so.

Of the layer's own lines, of Uvicorn's, and of an app that sets up no logging of its own. Standard library only.
"""

import contextlib
import json
import logging
import os
import sys
import threading
import warnings
from datetime import datetime, timezone
from types import TracebackType
from typing import Any, NoReturn

# Whose lines those of the layer are.
NAME = "stack"


def is_json() -> bool:
    return os.environ.get("STACK_LOG_FORMAT") == "json"


class Json(logging.Formatter):
    """One line a record, its traceback in it."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        said = {"time": when, "level": record.levelname.lower(), "logger": record.name}
        said["message"] = record.getMessage()
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            said["stack"] = record.stack_info
        return json.dumps(said)


def say(words: str, level: int = logging.INFO, error: "BaseException | None" = None) -> None:
    """Write it to standard error, in one piece: two processes share that. An error's traceback comes with it."""
    if is_json():
        exception = (type(error), error, error.__traceback__) if error else None
        words = Json().format(logging.LogRecord(NAME, level, "", 0, words, None, exception))
    sys.stderr.write(f"{words}\n")
    sys.stderr.flush()


def end(code: int) -> NoReturn:
    """End this process at once, whatever threads the app has started, and whatever streams it has replaced."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def excepthook(kind: type[BaseException], error: BaseException, trace: "TracebackType | None") -> None:
    """In place of the interpreter's, which writes a traceback in many lines."""
    error.__traceback__ = trace
    say(f"{kind.__name__}: {error}", logging.ERROR, error)


def of_thread(ended: Any) -> None:
    # As the interpreter has it: a thread may end itself.
    if ended.exc_value and ended.exc_type is not SystemExit:
        excepthook(ended.exc_type, ended.exc_value, ended.exc_traceback)


def of_warning(
    message: "Warning | str", category: type[Warning], filename: str, lineno: int, *_: object, **__: object
) -> None:
    say(f"{filename}:{lineno}: {category.__name__}: {message}", logging.WARNING)


def of_unraisable(found: Any) -> None:
    words = f"{found.err_msg or 'Exception ignored in'}: {found.object!r}"
    say(words, logging.ERROR, found.exc_value)


def begin() -> None:
    """Before the app is imported. An app that sets up its own logging has what it sets up."""
    if is_json():
        sys.excepthook, threading.excepthook = excepthook, of_thread
        # What writes the lines of loggers that nobody has given a handler.
        last = logging.StreamHandler()
        last.setLevel(logging.WARNING)
        last.setFormatter(Json())
        logging.lastResort = last
        warnings.showwarning = of_warning
        sys.unraisablehook = of_unraisable


def of_uvicorn() -> None:
    """Once Uvicorn has set up its logging."""
    for name in ("uvicorn", "uvicorn.access"):
        for handler in logging.getLogger(name).handlers if is_json() else ():
            handler.setFormatter(Json())
