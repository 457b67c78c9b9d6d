"""What kopf does for Warren: it starts and ends the parts, and watches the WorkQueues.

There are no handlers that need a finalizer, keep notes in annotations, or run a task for each resource.
"""

from typing import Any

import kopf
from kubernetes.aio.client import Configuration

from warren_operator.kube import REQUEST_LIMIT, TOKEN
from warren_operator.mirror import PAGE, SILENCE_MARGIN, WATCH_SECONDS
from warren_operator.parts import Parts
from warren_operator.resource import GROUP, PLURAL, VERSION

RETRIES = (0.5, 1, 2, 4, 8)
"""Seconds before each further try of a request that failed. After the last one a missing permission or definition ends
the operator; where the API server cannot be reached, kopf begins anew."""

MARKER = f"{GROUP}/operator"
"""Takes the place of kopf's own markers on resources. There are none, by construction; should there ever be one, this
says whose it is."""


class NothingKept(kopf.DiffBaseStorage):
    """Keeps no last state of resources: there are no handlers that would be told of differences.

    Without it kopf copies each object at each event, for nothing.
    """

    def build(self, **_: Any) -> kopf.BodyEssence:
        """An empty state."""
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        """There is none."""
        return None

    def store(self, **_: Any) -> None:
        """Forget it."""


def settings() -> kopf.OperatorSettings:
    """kopf's settings. All times are in seconds."""
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False  # the operator writes its own Events
    chosen.posting.loggers = False
    chosen.scanning.disabled = True  # neither namespaces nor definitions may be listed
    chosen.peering.standalone = True
    chosen.persistence.finalizer = MARKER
    chosen.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    chosen.persistence.diffbase_storage = NothingKept()
    chosen.watching.server_timeout = WATCH_SECONDS
    chosen.watching.inactivity_timeout = WATCH_SECONDS + SILENCE_MARGIN
    chosen.watching.connect_timeout = REQUEST_LIMIT
    chosen.watching.chunk_size = PAGE
    chosen.networking.request_timeout = REQUEST_LIMIT
    chosen.networking.connect_timeout = REQUEST_LIMIT
    chosen.networking.error_backoffs = RETRIES
    # Events of one object are worked off in its own short task, at once; it need not wait for more.
    chosen.queueing.idle_timeout = 0.1
    chosen.queueing.exit_timeout = 0.5
    chosen.process.ultimate_exiting_timeout = None  # `Parts.end` has a limit, and so has Kubernetes
    return chosen


async def connection(cluster: Configuration) -> kopf.ConnectionInfo:
    """The cluster in kopf's words, with the token as it is now."""
    scheme, _, token = (await cluster.get_api_key_with_prefix(TOKEN) or "").partition(" ")
    return kopf.ConnectionInfo(
        server=cluster.host,
        ca_path=cluster.ssl_ca_cert,
        insecure=not cluster.verify_ssl,
        scheme=scheme or None,
        token=token.strip() or None,
        certificate_path=cluster.cert_file,
        private_key_path=cluster.key_file,
        proxy_url=cluster.proxy,
    )


def registry(parts: Parts) -> kopf.OperatorRegistry:
    """The handlers, bound to the parts of one operator."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.startup(registry=handlers, errors=kopf.ErrorsMode.PERMANENT)
    async def start(**_: Any) -> None:
        await parts.start()

    @kopf.on.cleanup(registry=handlers, errors=kopf.ErrorsMode.PERMANENT)
    async def end(**_: Any) -> None:
        await parts.end()

    @kopf.on.login(registry=handlers, backoff=1.0)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return await connection(parts.cluster)

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=handlers)
    async def changed(event: kopf.RawEvent, **_: Any) -> None:
        parts.queues.take(event["type"], event["object"])

    return handlers


async def operate(parts: Parts) -> None:
    """Run until SIGTERM, SIGINT or a failure.

    Raises:
        Exception: what ended the operator: a part's failure, or else kopf's.
    """
    namespaces = parts.settings.namespaces
    everywhere = parts.settings.everywhere
    try:
        await kopf.operator(
            registry=registry(parts),
            settings=settings(),
            standalone=True,
            clusterwide=everywhere,
            namespaces=() if everywhere else namespaces,
            stop_flag=parts.stopped,
        )
    except Exception:
        if parts.failure is None:
            raise
    finally:
        await parts.end()
    if parts.failure is not None:
        raise parts.failure
