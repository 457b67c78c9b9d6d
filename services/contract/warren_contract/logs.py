"""Log lines: text for people by default, one JSON object a line on request."""

import json
import logging
import sys
import time
from collections.abc import Mapping

from warren_contract.settings import one_of, setting

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and what a call gave as `extra` (such as the task id)."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON; values that JSON does not know are written as their text."""
        entry: dict[str, object] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """`12:30:01.123 info    warren_worker: done task=0199…`: extras follow the message as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line, and the traceback below where there is one."""
        clock = f"{self.formatTime(record, '%H:%M:%S')}.{int(record.msecs):03d}"
        extras = "".join(
            f" {name}={_on_one_line(value)}" for name, value in vars(record).items() if name not in _STANDARD
        )
        line = f"{clock} {record.levelname.lower():7} {record.name}: {record.getMessage()}{extras}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _on_one_line(value: object) -> str:
    """A sender's text, such as a task's id, must not look like further lines of the log."""
    text = str(value)
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def configure_logging(environ: Mapping[str, str]) -> None:
    """Send all log records to standard output, as `WARREN_LOG_FORMAT` and `WARREN_LOG_LEVEL` say. Times are UTC.

    Raises:
        SettingError: one of the two has an unknown value.
    """
    form = setting(environ, "WARREN_LOG_FORMAT", one_of("text", "json"), "text")
    level = setting(environ, "WARREN_LOG_LEVEL", one_of("debug", "info", "warning", "error"), "info")
    formatter = JsonFormatter() if form == "json" else TextFormatter()
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # pika tells each step of each connection at info; what matters of it reaches our own log lines.
    logging.getLogger("pika").setLevel("DEBUG" if level == "debug" else "CRITICAL")
