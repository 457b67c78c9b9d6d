"""Where the token comes from: a file, the environment, or the Secret that the chart made."""

import base64
import binascii
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from warren_cli.client import WarrenError

Scope = Literal["submit", "read"]

SECRET = "warren-tokens"  # noqa: S105  a name, no secret
NAMESPACE = "warren"
KUBECTL_LIMIT = 15.0
"""Seconds for kubectl; it asks one server for one object."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where Warren is installed, for kubectl.

    Attributes:
        namespace: of the release.
        context: of the kubeconfig; the current one by default.
        secret: name of the Secret with the tokens.
    """

    namespace: str = NAMESPACE
    context: str | None = None
    secret: str = SECRET

    def kubectl(self, *arguments: str) -> list[str]:
        """A kubectl command in this place."""
        context = [] if self.context is None else ["--context", self.context]
        return ["kubectl", *context, "--namespace", self.namespace, *arguments]

    @property
    def producer(self) -> str:
        """Name of the producer's Service, which begins like the Secret's, unless that is one of the user's own."""
        release = self.secret.removesuffix("-tokens")
        return f"{release if release not in ('', self.secret) else 'warren'}-producer"


def find_token(environ: Mapping[str, str], scope: Scope, cluster: Cluster, token_file: Path | None = None) -> str:
    """The token to use, with the least rights that do; nothing is stored.

    Args:
        environ: `WARREN_TOKEN` wins over the Secret.
        scope: what it is for.
        cluster: where the Secret is.
        token_file: wins over everything; its first line counts.

    Raises:
        WarrenError: there is none; the message says what to do.
    """
    if token_file is not None:
        try:
            text = token_file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise WarrenError(f"cannot read the token in {token_file}: {error}") from error
        return _usable(text, str(token_file))
    if environ.get("WARREN_TOKEN"):
        return _usable(environ["WARREN_TOKEN"], "WARREN_TOKEN")
    return _from_secret(scope, cluster)


def _from_secret(scope: Scope, cluster: Cluster) -> str:
    remedy = "set WARREN_TOKEN, or give --token-file"
    command = cluster.kubectl("get", "secret", cluster.secret, "--output", "json", "--request-timeout", "10s")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=KUBECTL_LIMIT, check=False)
    except FileNotFoundError:
        raise WarrenError(f"no token, and no kubectl to read it with: {remedy}") from None
    except OSError as error:  # such as one for another kind of processor
        raise WarrenError(f"no token: kubectl cannot be run ({error.strerror}): {remedy}") from error
    except subprocess.TimeoutExpired:
        raise WarrenError(
            f"no token: kubectl did not read Secret {cluster.secret} in namespace {cluster.namespace} within "
            f"{KUBECTL_LIMIT:g} s: {remedy}"
        ) from None
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["kubectl said nothing"])[-1]
        raise WarrenError(
            f"no token: cannot read Secret {cluster.secret} in namespace {cluster.namespace} ({reason}): {remedy}, "
            "or name the installation with --namespace, --secret and --context"
        )
    try:
        data = json.loads(done.stdout).get("data") or {}
        for key in (scope, "submit", "admin"):
            if data.get(key):
                # After a token may follow the queues that it is for.
                words = base64.b64decode(data[key], validate=True).decode().split()
                return _usable(words[0] if words else "", f"Secret {cluster.secret}")
    except (ValueError, AttributeError, binascii.Error) as error:
        raise WarrenError(f"Secret {cluster.secret} is not made as the chart makes it: {remedy}") from error
    raise WarrenError(f"Secret {cluster.secret} has no token to {scope} with: {remedy}")


def _usable(text: str, origin: str) -> str:
    lines = text.strip().splitlines()
    if not lines or not lines[0].isascii() or not lines[0].isprintable() or " " in lines[0].strip():
        raise WarrenError(f"{origin} has no usable token: it must be one line of visible ASCII characters")
    return lines[0].strip()
