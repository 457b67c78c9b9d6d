"""A broker that is reached over TLS, as those outside the cluster are: the parts check whom they talk to."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import Broker
from producers import SUBMIT_TOKEN, producer_environment, running_producer
from waiting import eventually
from workers import Workers, workers_on


def authority(folder: Path, host: str) -> Path:
    """A new certificate for `host` that is its own authority, with its key beside it."""
    certificate = folder / "tls.crt"
    kind = "IP" if host.replace(".", "").isdigit() else "DNS"
    extensions = (
        "basicConstraints=critical,CA:TRUE",
        "keyUsage=critical,digitalSignature,keyCertSign",
        f"subjectAltName={kind}:{host}",
    )
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"),
            *("-keyout", folder / "tls.key", "-out", certificate, "-days", "2", "-subj", "/CN=broker"),
            *(word for extension in extensions for word in ("-addext", extension)),
        ],
        capture_output=True,
        timeout=60,
        check=True,
    )
    return certificate


@pytest.fixture(scope="module")
def secured(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What has a part reach the broker over TLS, at a listener that the broker has besides its usual ones."""
    certificate = authority(tmp_path_factory.mktemp("tls"), broker.host)
    for path in (certificate, certificate.with_suffix(".key")):
        broker.write_temporary(path.name, path.read_bytes())
    broker.ctl(
        "eval",
        'rabbit_networking:start_ssl_listener(5671, [{certfile, "/tmp/tls.crt"}, {keyfile, "/tmp/tls.key"}], 2).',
    )
    return {
        "WARREN_BROKER_PORT": str(broker.published(5671)),
        "WARREN_BROKER_TLS": "true",
        "WARREN_BROKER_CA_FILE": str(certificate),
    }


@pytest.fixture
def workers(broker: Broker, work_queue: str, tmp_path: Path) -> Iterator[Workers]:
    with workers_on(broker, work_queue, tmp_path) as found:
        yield found


@pytest.mark.parametrize("executor", ["process", "thread"])
def test_a_worker_does_its_tasks_over_tls(workers: Workers, secured: dict[str, str], executor: str) -> None:
    worker = workers.start("fail_if_bad", WARREN_EXECUTOR=executor, WARREN_MAX_ATTEMPTS="1", **secured).ready()
    workers.publish("light", "bad")
    (letter,) = workers.dead_letters(1)
    assert letter.body == b"bad"
    eventually(lambda: [note.body for note in workers.notes("end")] == ["light"], "the other one is done")
    assert worker.metric("reconnects_total") == 0


def test_a_producer_submits_over_tls(broker: Broker, work_queue: str, tmp_path: Path, secured: dict[str, str]) -> None:
    with (
        running_producer({**producer_environment(broker), **secured}, tmp_path) as producer,
        producer.client(SUBMIT_TOKEN) as client,
    ):
        producer.wait_until_ready()
        assert client.post(f"/v1/queues/{work_queue}/tasks", content=b"x").status_code == 202
    assert [body for _properties, body in broker.drain(work_queue)] == [b"x"]


def test_a_broker_that_another_authority_vouches_for_gets_nothing(
    workers: Workers, secured: dict[str, str], tmp_path: Path, broker: Broker
) -> None:
    stranger = authority(tmp_path, broker.host)
    worker = workers.start(**{**secured, "WARREN_BROKER_CA_FILE": str(stranger)})
    worker.wait_for_line("CERTIFICATE_VERIFY_FAILED")
    status, _text = worker.get("/readyz")
    assert status == 503
    assert worker.process.poll() is None, "it goes on trying: the broker's certificate may be mended"
    assert workers.consumers() == 0
