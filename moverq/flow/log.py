"""Log lines, for operators: `key=value` on stderr, unless the program that runs us has told structlog otherwise.

structlog comes with the first line, for it brings a quarter of the modules of a command's start-up and a sixth of its
memory with it, and most commands log nothing.
"""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import structlog


def log(name: str) -> "structlog.typing.FilteringBoundLogger":
    """The log of this name."""
    import structlog

    if not structlog.is_configured():
        structlog.configure(
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.ExceptionRenderer(),
                structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
            ],
            logger_factory=_to_stderr,
        )
    found: structlog.typing.FilteringBoundLogger = structlog.get_logger(name)
    return found


def _to_stderr(*_: Any) -> "structlog.PrintLogger":
    import structlog

    return structlog.PrintLogger(sys.stderr)


__all__ = ["log"]
