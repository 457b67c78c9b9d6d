"""The operator as a program: settings, log, exit code."""

import asyncio
import gc
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import replace

from kubernetes.aio.client import Configuration

from warren_contract.logs import configure_logging
from warren_contract.settings import BrokerSettings, SettingError
from warren_operator.handlers import operate
from warren_operator.kube import Api, KubeError, find_cluster
from warren_operator.mirror import advice
from warren_operator.parts import Parts
from warren_operator.settings import Settings
from warren_operator.work_queues import WORK_QUEUES, NotWatched, watchable

log = logging.getLogger(__name__)


async def run(environ: Mapping[str, str]) -> None:
    """Run the operator until SIGTERM or SIGINT.

    Raises:
        SettingError: a setting is missing or wrong.
        Exception: what ended the operator.
    """
    settings = Settings.load(environ)
    BrokerSettings.load(environ)  # a mistake in there is told at once, not at the first connect
    cluster = await find_cluster(environ)
    served = await _served(cluster, settings.namespaces)
    await operate(Parts(environ, replace(settings, namespaces=served), cluster, settings.namespaces))


async def _served(cluster: Configuration, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The namespaces to serve; all where nobody can tell which may be watched."""
    try:
        async with Api(cluster) as api:
            served = await watchable(api, wanted)
    except KubeError:
        return wanted
    for name in wanted:
        if name not in served:
            log.error(
                "namespace %s is not served: allow the operator's service account list and watch on %s in it; where it "
                "is gone, take it out of operator.watchNamespaces",
                name,
                WORK_QUEUES.plural,
            )
    return served


def reason(error: Exception) -> str:
    """Why the operator ends, in one sentence; empty where it takes a traceback.

    kopf does not export its errors; they have the status of the API server's answer, and its message where it gave one.
    """
    if isinstance(error, NotWatched):
        return str(error)
    refused = KubeError(getattr(error, "status", 0), "", getattr(error, "message", None) or str(error).strip())
    if refused.code >= 400:
        return f"cannot watch {WORK_QUEUES.plural}: {advice(refused, WORK_QUEUES)}"
    return ""


def quiet_kopf() -> None:
    """kopf tells each step and each retry; what matters of it reaches our own log lines."""
    if not log.isEnabledFor(logging.DEBUG):
        logging.getLogger("kopf").setLevel(logging.CRITICAL)
        logging.getLogger("kopf.objects").setLevel(logging.ERROR)  # a handler that failed


def main() -> int:
    """Entry point; returns the exit code: 0 where it was asked to end, 2 for a wrong setting, else 1."""
    try:
        configure_logging(os.environ)
        quiet_kopf()
        # What is kept of thousands of objects lives long: looking for garbage in it less often costs less time.
        gc.set_threshold(20_000, 20, 50)
        asyncio.run(run(os.environ))
    except SettingError as error:
        sys.stderr.write(f"warren-operator: {error}\n")
        return 2
    except Exception as error:
        if told := reason(error):
            log.critical("%s", told)
        else:
            log.exception("the operator failed")
        return 1
    return 0
