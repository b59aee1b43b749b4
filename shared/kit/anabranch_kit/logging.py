"""Logs as events with fields: JSON lines on stderr, or readable ones on a terminal.

`configure_logging` is called once by a service's bootstrap. Every line carries the service and
its member. Libraries that use the standard library's logging come out in the same form.
"""

from __future__ import annotations

import logging
import sys
from typing import Final, Literal

import msgspec
import structlog
from structlog.stdlib import BoundLogger
from structlog.typing import EventDict, Processor, WrappedLogger

LogFormat = Literal["auto", "json", "console"]
# Chatty below warning, and what they say there is about themselves.
QUIET_LIBRARIES: Final = ("asyncio", "nats", "faststream", "grpc", "uvicorn", "redis")


def configure_logging(
    *, service: str, member: str, level: str = "info", log_format: str = "auto"
) -> None:
    """Send all logs of this process to stderr. "auto" is console on a terminal, else JSON."""
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared = _shared_processors(service=service, member=member)
    renderer: Processor
    if console:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    else:
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer(serializer=_to_json)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(capture=True)


def get_logger(name: str = "anabranch", **bound: object) -> BoundLogger:
    """A logger with fields bound. Fine at module level: it is configured on first use."""
    logger: BoundLogger = structlog.stdlib.get_logger(name, **bound)
    return logger


def _shared_processors(*, service: str, member: str) -> list[Processor]:
    def name_process(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event.setdefault("service", service)
        event.setdefault("member", member)
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        name_process,
    ]


def _to_json(event: EventDict, **_: object) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()
