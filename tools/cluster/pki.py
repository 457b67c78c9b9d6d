"""The cluster's certificates and keys, made once with the openssl program."""

import base64
import hashlib
import secrets
from dataclasses import dataclass
from pathlib import Path

from tools.cluster.layout import API_ADDRESS, API_SERVICE, DOMAIN, Layout
from tools.shell import run

DAYS = 3650
"""Local clusters are thrown away long before."""
CONFIG = "openssl.cnf"
AUTHORITIES_MADE = "authorities.made"


@dataclass(frozen=True)
class Certificate:
    """One key pair, signed by one of the authorities."""

    name: str
    common_name: str
    organization: str = ""
    """For a client: the group that Kubernetes puts it in."""
    hosts: tuple[str, ...] = ()
    """For a server: the names and addresses that clients reach it by."""
    authority: str = "ca"


AUTHORITIES = ("ca", "front-proxy-ca")
SERVICE_ACCOUNTS = "service-accounts"
"""The key pair that signs the tokens of pods."""


def certificates(layout: Layout) -> tuple[Certificate, ...]:
    """Every certificate that a cluster needs. Groups and names are those that Kubernetes' own roles are bound to."""
    first = layout.control_plane
    service = "kubernetes.default.svc"
    hosts = ("kubernetes", "kubernetes.default", service, f"{service}.{DOMAIN}", "localhost", first.name)
    addresses = (API_SERVICE, first.address, API_ADDRESS, "127.0.0.1")
    nodes: list[Certificate] = []
    for node in layout.nodes:
        nodes += [
            Certificate(f"node-{node.name}", f"system:node:{node.name}", "system:nodes"),
            Certificate(f"kubelet-{node.name}", f"system:node:{node.name}", hosts=(node.name, node.address)),
        ]
    return (
        Certificate("api-server", "kube-apiserver", hosts=(*hosts, *addresses)),
        Certificate("api-server-to-kubelet", "warren-api-server-to-kubelet", "system:masters"),
        Certificate("front-proxy", "front-proxy-client", authority="front-proxy-ca"),
        Certificate("admin", "warren-admin", "system:masters"),
        Certificate("controller-manager", "system:kube-controller-manager"),
        Certificate("scheduler", "system:kube-scheduler"),
        Certificate("proxy", "system:kube-proxy"),
        Certificate("dns", "system:coredns"),
        Certificate("provisioner", "system:persistent-volume-provisioner"),
        *nodes,
    )


def subject(certificate: Certificate) -> str:
    """The subject as openssl takes it."""
    organization = f"/O={certificate.organization}" if certificate.organization else ""
    return f"{organization}/CN={certificate.common_name}"


def extensions(certificate: Certificate) -> str:
    """The extensions as openssl takes them: use as a server with its names, or as a client."""
    lines = ["basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature"]
    if certificate.hosts:
        names = ",".join(f"{'IP' if host.replace('.', '').isdigit() else 'DNS'}:{host}" for host in certificate.hosts)
        lines += ["extendedKeyUsage=serverAuth", f"subjectAltName={names}"]
    else:
        lines += ["extendedKeyUsage=clientAuth"]
    return "\n".join(lines) + "\n"


def fingerprint(certificate: Certificate) -> str:
    """A hash of what is asked for; with another one, the certificate is made anew."""
    return hashlib.sha256(f"{DAYS} {certificate!r}".encode()).hexdigest()


def ensure(folder: Path, layout: Layout) -> None:
    """Make the authorities, keys and certificates that are not there, or not as they should be.

    Each has a file `<name>.made` that is written last: what a run that died half-way left without one is made again.
    Further nodes get theirs from the same authorities later.
    """
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    wanted = certificates(layout)
    if not (folder / AUTHORITIES_MADE).exists():
        # New authorities make every certificate void.
        for path in folder.iterdir():
            path.unlink()
        _make_authorities(folder)
        (folder / AUTHORITIES_MADE).touch()
    for certificate in wanted:
        made = folder / f"{certificate.name}.made"
        if not made.exists() or made.read_text() != fingerprint(certificate):
            made.unlink(missing_ok=True)
            _make_certificate(folder, certificate)
            partial = folder / f".{certificate.name}.made"
            partial.write_text(fingerprint(certificate))
            partial.replace(made)


def _openssl(*words: str | Path) -> None:
    run(["openssl", *words], limit=60)


def _make_key(folder: Path, name: str) -> Path:
    path = folder / f"{name}.key"
    _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path)
    path.chmod(0o600)
    return path


def _make_authorities(folder: Path) -> None:
    # Our own configuration: what the machine's openssl.cnf adds to a certificate, we do not want.
    config = folder / CONFIG
    config.write_text(
        "[req]\ndistinguished_name=name\nx509_extensions=authority\nprompt=no\n[name]\n"
        "[authority]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign,digitalSignature\n"
        "subjectKeyIdentifier=hash\n"
    )
    for name in AUTHORITIES:
        _openssl(
            *("req", "-x509", "-new", "-sha256", "-config", config, "-days", str(DAYS)),
            *("-key", _make_key(folder, name), "-subj", f"/CN=warren-{name}", "-out", folder / f"{name}.crt"),
        )
    key = _make_key(folder, SERVICE_ACCOUNTS)
    _openssl("pkey", "-in", key, "-pubout", "-out", folder / f"{SERVICE_ACCOUNTS}.pub")


def _make_certificate(folder: Path, certificate: Certificate) -> None:
    name, signer = certificate.name, folder / certificate.authority
    request, extra = folder / f"{name}.csr", folder / f"{name}.ext"
    extra.write_text(extensions(certificate))
    key = _make_key(folder, name)
    _openssl(
        *("req", "-new", "-sha256", "-config", folder / CONFIG, "-key", key),
        *("-subj", subject(certificate), "-out", request),
    )
    _openssl(
        *("x509", "-req", "-sha256", "-days", str(DAYS), "-in", request, "-extfile", extra),
        # 159 random bits: an authority never gives out one serial number twice, and needs no file to count them.
        *("-CA", f"{signer}.crt", "-CAkey", f"{signer}.key", "-set_serial", str(secrets.randbits(159))),
        *("-out", folder / f"{name}.crt"),
    )
    request.unlink()
    extra.unlink()


def kubeconfig(folder: Path, name: str, server: str) -> str:
    """A kubeconfig with everything inside, for the client certificate `name`."""

    def inline(file: str) -> str:
        return base64.b64encode((folder / file).read_bytes()).decode()

    return f"""apiVersion: v1
kind: Config
clusters:
- name: warren
  cluster:
    server: {server}
    certificate-authority-data: {inline("ca.crt")}
users:
- name: {name}
  user:
    client-certificate-data: {inline(f"{name}.crt")}
    client-key-data: {inline(f"{name}.key")}
contexts:
- name: warren
  context:
    cluster: warren
    user: {name}
current-context: warren
"""
