"""How programs on this machine reach a package index, handed on to the stages of an image build that install."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path

from tools.shell import run

PIP_KEYS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "default-timeout", "retries")
"""pip's settings that mean the same in an image; folders and files of this machine do not."""

BUNDLE_VARIABLES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")
BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")

PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")


def ca_bundle(environ: Mapping[str, str]) -> Path | None:
    """The certificates that programs here trust, among them those of a proxy that opens TLS."""
    named = [environ[variable] for variable in BUNDLE_VARIABLES if environ.get(variable)]
    return next((Path(path) for path in (*named, *BUNDLES) if Path(path).is_file()), None)


def proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """The proxy variables, which the builder passes on and keeps out of the image's history."""
    return {key: value for key, value in environ.items() if key.upper() in PROXY_VARIABLES and value}


def pip_settings(listing: str) -> dict[str, str]:
    """From `pip config list` (lines like `global.index-url='…'`), what holds in an image too; the environment wins."""
    found: dict[str, str] = {}
    for section in ("global", "install", ":env:"):
        for key, value in re.findall(rf"^{section}\.(\S+?)='(.*)'$", listing, re.MULTILINE):
            if key in PIP_KEYS:
                found[key.removeprefix("default-")] = value.replace("\\n", "\n    ")
    return found


def pip_conf(settings: Mapping[str, str], *, bundle: str | None) -> str:
    """A configuration file for pip in the build; `bundle` is the path of the certificates there."""
    lines = dict(settings) | ({"cert": bundle} if bundle else {})
    return "[global]\n" + "".join(f"{key} = {value}\n" for key, value in sorted(lines.items()))


def read_pip_settings() -> dict[str, str]:
    """This machine's settings; none where Python came without pip."""
    result = run([sys.executable, "-m", "pip", "config", "list"], limit=60, check=False)
    return pip_settings(result.stdout) if result.code == 0 else {}
