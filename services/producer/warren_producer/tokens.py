"""Bearer tokens: who may do what. They live in files, which Kubernetes refreshes when their Secret changes."""

import hashlib
import hmac
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import MappingProxyType

from warren_contract.names import QueueNameError, check_queue_name
from warren_contract.settings import SettingError

log = logging.getLogger(__name__)

CHECK_INTERVAL = 1.0
"""Seconds between two looks at the files."""

MIN_LENGTH = 16
"""Characters; anything shorter is guessed, or a slip."""


class Scope(Enum):
    """What a token may do; its value is the name of its file."""

    SUBMIT = "submit"
    READ = "read"
    ADMIN = "admin"


GRANTS: Mapping[Scope, frozenset[Scope]] = MappingProxyType(
    {
        Scope.READ: frozenset({Scope.READ}),
        Scope.SUBMIT: frozenset({Scope.SUBMIT, Scope.READ}),
        Scope.ADMIN: frozenset(Scope),
    }
)
"""What the tokens in each file may do."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a line of a token file allows.

    Attributes:
        scopes: what may be done.
        queues: with these queues only; None for all.
    """

    scopes: frozenset[Scope]
    queues: frozenset[str] | None = None

    def allows(self, scope: Scope, queue: str | None = None) -> bool:
        """Whether it does, with `queue`, or with some queue."""
        return scope in self.scopes and (queue is None or self.queues is None or queue in self.queues)


@dataclass(frozen=True, slots=True)
class TokenSet:
    """Digests of all tokens, with what each may do. The tokens themselves are not kept."""

    digests: tuple[tuple[bytes, Grant], ...]

    @classmethod
    def of(cls, lines: Iterable[tuple[Scope, str]]) -> "TokenSet":
        """From the lines of the files: a token, and the queues it is for where these are not all."""
        digests = []
        for scope, line in lines:
            token, *queues = line.split()
            digests.append((_digest(token), Grant(GRANTS[scope], frozenset(queues) or None)))
        return cls(tuple(digests))

    def grants(self, token: str) -> tuple[Grant, ...]:
        """What `token` may do, by each line that has it; none, if it is not known.

        Takes the same time whichever token it is compared with, and wherever the first difference lies.
        """
        digest = _digest(token)
        return tuple(grant for known, grant in self.digests if hmac.compare_digest(known, digest))


class TokenFiles:
    """The tokens in a folder, read again when a file changes.

    Raises:
        SettingError: at the first reading, if no token can be used. Later mistakes are logged and change nothing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._checked = time.monotonic()
        self._signature = self._look()
        self._tokens = read_tokens(folder)

    def current(self) -> TokenSet:
        """The tokens in force."""
        now = time.monotonic()
        if now - self._checked >= CHECK_INTERVAL:
            self._checked = now
            signature = self._look()
            if signature != self._signature:
                try:
                    self._tokens = read_tokens(self._folder)
                except SettingError as error:
                    log.error("the tokens changed, but the old ones stay in force: %s", error)  # noqa: TRY400
                else:
                    log.info("the tokens changed")
                # Only now: where the files could not be read, one message a change is enough.
                self._signature = signature
        return self._tokens

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        signature: list[tuple[int, int, int] | None] = []
        for scope in Scope:
            try:
                stat = (self._folder / scope.value).stat()
            except OSError:
                signature.append(None)
            else:
                signature.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
        return tuple(signature)


def read_tokens(folder: Path) -> TokenSet:
    """Read the files `submit`, `read` and `admin`: one token a line, blank lines skipped. A missing file has no tokens.

    After a token may follow the queues that it is for; without any, it is for all.

    Raises:
        SettingError: a file cannot be read, a token cannot be used, or there is none at all.
    """
    found: list[tuple[Scope, str]] = []
    for scope in Scope:
        path = folder / scope.value
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise SettingError(f"cannot read the tokens in {path}: {error}") from error
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                _check_line(line, f"line {number} of {path}")
                found.append((scope, line))
    if not found:
        raise SettingError(
            f"there are no tokens in {folder}: write at least one to a file submit, read or admin there "
            "(WARREN_TOKEN_DIR names the folder)"
        )
    return TokenSet.of(found)


def _check_line(line: str, where: str) -> None:
    """Raise SettingError unless the line is a token and names of queues; none of it is shown."""
    token, *queues = line.split()
    if len(token) < MIN_LENGTH or not line.isascii() or not token.isprintable():
        raise SettingError(f"{where} is no usable token: write at least {MIN_LENGTH} visible ASCII characters")
    for number, queue in enumerate(queues, 2):
        try:
            check_queue_name(queue)
        except QueueNameError:
            # Without the word: whoever writes two tokens into a line has one in its place.
            raise SettingError(
                f"{where}: word {number} is no queue name: a line has one token, and after it only names of the queues "
                "that it is for"
            ) from None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
