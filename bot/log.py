"""What the bridge writes to standard error: an action word and ids, never contents.

Owns structlog's set-up and the guard that every line passes. A line may carry only the keys below, and only short
values without blanks; what other libraries log is cut down to who, where and which exception (nio, for one, logs whole
events at DEBUG, and asyncio what an exception says).
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TextIO

import structlog
from structlog.typing import EventDict, Processor

ACTION: Final = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
"""An event is a word such as ``post.delivered``: an f-string with contents in it does not pass."""

VALUE: Final = re.compile(r"[\w@:.!$/+=,<>#|()*~%&?\[\]-]{0,255}")
"""A text value: one word, no blanks and no control characters."""

_WORDS: Final = """
event level timestamp error errors cause where library dropped
group member post mail event_id row delivery session room user device fingerprint fingerprints queue
code errcode status reason reply kind kinds state door target name action trigger type job protocol failure tag
count rows attempts failures held missing added given_up size seconds index devices events keys
wanted found version oldest signal worker listener host port peer
"""
KEYS: Final = frozenset(_WORDS.split())
"""Whatever else a line wants to carry is dropped, and its key named under ``dropped``."""

OURS: Final = ("bot", "bridges", "storage", "trust")
ROOT: Final = Path(__file__).resolve().parents[1]


def set_up(*, level: str, form: str, stream: TextIO | None = None) -> None:
    """Send all logs of this process through the guard. ``level``: debug to error; ``form``: json or console."""
    out = stream or sys.stderr
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=_processors(form, colours=out.isatty()),
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    _catch_libraries()
    _catch_crashes()


def _processors(form: str, *, colours: bool) -> list[Processor]:
    last: Processor = (
        structlog.dev.ConsoleRenderer(colors=colours) if form == "console" else structlog.processors.JSONRenderer()
    )
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        exceptions_by_place,
        guard,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        last,
    ]


def guard(logger: object, method: str, line: EventDict) -> EventDict:
    """Let only known keys and harmless values pass."""
    event = line.get("event")
    passed: EventDict = {key: _harmless(value) for key, value in line.items() if key in KEYS}
    passed["event"] = event if isinstance(event, str) and ACTION.fullmatch(event) else "unnamed"
    if dropped := sorted(key for key in line if key not in KEYS and ACTION.fullmatch(key)):
        passed["dropped"] = dropped
    return passed


def _harmless(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_harmless(item) for item in list(value)[:10]]
    return str(value) if isinstance(value, str) and VALUE.fullmatch(value) else "(withheld)"


# --- exceptions ------------------------------------------------------------------------------------------------------


def exceptions_by_place(logger: object, method: str, line: EventDict) -> EventDict:
    """Replace an exception by its type and where it was raised: what it says may hold contents."""
    given = line.pop("exc_info", None)
    line.pop("exception", None)
    line.pop("stack_info", None)
    error = given if isinstance(given, BaseException) else given[1] if isinstance(given, tuple) else None
    if given is True:
        error = sys.exc_info()[1]
    line.update(described(error) if error else {})
    return line


def described(error: BaseException) -> dict[str, Any]:
    """``error``, ``where``, and ``cause`` or ``errors`` of an exception, without a word of what it says."""
    told: dict[str, Any] = {"error": type(error).__name__, "where": _places(error.__traceback__)}
    if isinstance(error, BaseExceptionGroup):
        told["errors"] = [f"{type(leaf).__name__}@{','.join(_places(leaf.__traceback__))}" for leaf in _leaves(error)]
    cause = error.__cause__ or error.__context__
    return told | {"cause": type(cause).__name__} if cause else told


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _places(trace: TracebackType | None) -> list[str]:
    """The last place in our own code, and the very last one: ``bridges/work.py:92``."""
    places = []
    while trace is not None:
        places.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    ours = [place for place in places if _short(place[0]).startswith(OURS)]
    return [f"{_short(name)}:{line}" for name, line in dict.fromkeys((ours or places)[-1:] + places[-1:])]


def _short(filename: str) -> str:
    path = Path(filename)
    if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in OURS:
        return path.relative_to(ROOT).as_posix()
    return "/".join(path.parts[-2:])


# --- what others log -------------------------------------------------------------------------------------------------


class LibraryLines(logging.Handler):
    """Tells that a library logged something, never what: its messages and arguments may hold anything."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        place = f"{_short(record.pathname)}:{record.lineno}"
        told = described(record.exc_info[1]) if record.exc_info and record.exc_info[1] else {}
        method = log.error if record.levelno >= logging.ERROR else log.warning
        method("library.says", library=record.name, **{"where": [place], **told})


def _catch_libraries() -> None:
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, logging.StreamHandler | LibraryLines) and not _belongs_to_pytest(handler):
            root.removeHandler(handler)
    root.addHandler(LibraryLines(logging.WARNING))
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)


def _belongs_to_pytest(handler: logging.Handler) -> bool:
    return type(handler).__module__.startswith("_pytest")


def _catch_crashes() -> None:
    """What nobody caught is told by type and place as well: Python's own way prints the values."""

    def crashed(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None and not issubclass(kind, KeyboardInterrupt):
            structlog.get_logger().error("crashed", exc_info=error.with_traceback(trace))

    sys.excepthook = crashed
    sys.unraisablehook = lambda args: crashed(args.exc_type, args.exc_value, args.exc_traceback)
    threading.excepthook = lambda args: crashed(args.exc_type, args.exc_value, args.exc_traceback)
