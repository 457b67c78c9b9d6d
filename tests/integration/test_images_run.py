"""The images from the inside: ordinary user, read-only root, nothing superfluous; and a broker that is at home."""

import io
import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from waiting import eventually

from tools.console import Console
from tools.engine import Engine, ensure
from tools.images import bases, build
from tools.images.parts import PARTS, version

ROOT = Path(__file__).resolve().parents[2]
LOCKED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--tmpfs", "/tmp")  # noqa: S108
"""As the chart runs every pod."""

START_LIMIT = 120.0


@pytest.fixture(scope="module")
def engine() -> Engine:
    return ensure(Console())


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inputs as they are now: whoever edits the working copy meanwhile does not disturb."""
    copy = tmp_path_factory.mktemp("clone")
    for name in ("Dockerfile", "LICENSE", "pyproject.toml"):
        shutil.copy(ROOT / name, copy / name)
    for name in ("requirements", "services", "operator"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="module")
def images(clone: Path) -> dict[str, str]:
    return dict(build(Console(), clone))


@pytest.fixture(params=[part.name for part in PARTS])
def image(request: pytest.FixtureRequest, images: dict[str, str]) -> str:
    return images[request.param]


def python(engine: Engine, image: str, program: str, *options: str) -> str:
    """What a Python program in the image prints."""
    return engine.run("run", "--rm", *LOCKED, *options, "--entrypoint", "python3", image, "-c", program).stdout


def test_an_ordinary_user_and_a_read_only_root(engine: Engine, image: str) -> None:
    program = (
        "import os, pathlib, tempfile\n"
        "print(os.getuid(), os.getgid(), os.getcwd(), pathlib.Path.home())\n"
        "tempfile.NamedTemporaryFile().write(b'x')\n"
        "for folder in '/app', '/opt/warren', '/usr', '/etc':\n"
        "    try: (pathlib.Path(folder) / 'x').write_text('x')\n"
        "    except OSError: continue\n"
        "    print('could write to', folder)\n"
    )
    assert python(engine, image, program).splitlines() == ["10001 10001 /app /tmp"]


def test_without_the_lock_the_user_still_owns_nothing(engine: Engine, image: str) -> None:
    listed = engine.run(
        "run", "--rm", "--entrypoint", "find", image, "/app", "/opt/warren", "/usr", "-writable", "!", "-type", "l"
    )
    assert listed.stdout == ""


def test_no_installer_and_no_compiler(engine: Engine, image: str) -> None:
    program = (
        "import importlib.util, shutil\n"
        "print([name for name in ('pip', 'pip3', 'gcc', 'cc', 'make') if shutil.which(name)],\n"
        "      [name for name in ('pip', 'ensurepip') if importlib.util.find_spec(name)])\n"
    )
    assert python(engine, image, program).strip() == "[] []"


@pytest.mark.parametrize("part", [part.name for part in PARTS])
def test_it_has_its_own_packages_compiled_and_no_others(engine: Engine, images: dict[str, str], part: str) -> None:
    program = (
        "import importlib.util, pathlib\n"
        "import warren_contract.names as module\n"
        "print(pathlib.Path(module.__cached__).is_file())\n"
        "print(sorted(path.name for path in pathlib.Path('/opt/warren').glob('warren_*')))\n"
    )
    lines = python(engine, images[part], program).splitlines()
    assert lines == ["True", str(sorted(["warren_contract", f"warren_{part}"]))]


def test_labels_and_entry_point(engine: Engine, image: str) -> None:
    config = json.loads(engine.run("image", "inspect", "--format", "{{json .Config}}", image).stdout)
    part = image.removeprefix("warren/").partition(":")[0]
    assert config["Entrypoint"][-3:] == ["python3", "-m", f"warren_{part}"]
    assert config["User"] == "10001:10001"
    assert config["Labels"]["org.opencontainers.image.version"] == version(ROOT)
    assert image.partition(":")[2].startswith(f"{version(ROOT)}-")
    assert engine.image_id(f"warren/{part}:{version(ROOT)}") == engine.image_id(image)


def test_neither_certificates_nor_settings_of_this_machine_are_in_it(engine: Engine, image: str) -> None:
    program = "import pathlib; print(pathlib.Path('/build').exists(), pathlib.Path('/etc/pip.conf').exists())"
    assert python(engine, image, program).strip() == "False False"
    history = engine.run("history", "--no-trunc", "--format", "{{.CreatedBy}}", image).stdout.lower()
    assert not [word for word in ("proxy=", "index-url", "index_url", "trusted") if word in history]


def test_a_users_module_in_the_working_folder_can_be_imported(
    engine: Engine, images: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "thumbnails.py").write_text("def make(task):\n    return f'made {task}'\n")
    (tmp_path / "Dockerfile").write_text(f"FROM {images['worker']}\nCOPY thumbnails.py /app/\n")
    name = f"warren-test/handler:{uuid.uuid4().hex[:8]}"
    engine.run("build", "--tag", name, tmp_path, env={"DOCKER_BUILDKIT": "0"}, limit=120)
    try:
        # From another folder too: a pod may set its own.
        printed = python(engine, name, "import thumbnails; print(thumbnails.make(1))", "--workdir", "/")
    finally:
        engine.run("rmi", name, check=False)
    assert printed.strip() == "made 1"


@pytest.mark.parametrize("part", ["worker", "producer"])
def test_what_is_asked_to_stop_while_it_starts_does_stop(
    engine: Engine, images: dict[str, str], tmp_path: Path, part: str
) -> None:
    """SIGTERM comes before any line of ours has run; the first process of a container must not miss it."""
    tmp_path.chmod(0o755)
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal\nif os.getpid() == 1: os.kill(1, signal.SIGTERM)\n", "utf-8"
    )
    (tmp_path / "admin").write_text("a-token-for-one-test-run\n", "ascii")
    broker = ("HOST=127.0.0.1", "PORT=1", "VHOST=/", "USERNAME=u", "PASSWORD=p")
    settings = ("WARREN_QUEUE=work", "WARREN_TOKEN_DIR=/app", *(f"WARREN_BROKER_{setting}" for setting in broker))
    options = [word for setting in settings for word in ("--env", setting)]
    name = f"warren-test-{part}-{uuid.uuid4().hex[:8]}"
    engine.run("run", "--detach", "--name", name, *LOCKED, *options, "-v", f"{tmp_path}:/app:ro", images[part])
    try:
        assert engine.run("wait", name, limit=60).stdout.strip() == "0", engine.run("logs", name).stdout
    finally:
        engine.run("rm", "--force", name, check=False)


@dataclass(frozen=True)
class Broker:
    """A running broker's container."""

    engine: Engine
    name: str

    def execute(self, *command: str, user: str = "999") -> str:
        """Run a command in the container."""
        return self.engine.run("exec", "--user", user, self.name, *command, limit=120).stdout

    def log(self) -> str:
        """What the container wrote to its standard output."""
        return self.engine.run("logs", self.name).stdout


@contextmanager
def broker(engine: Engine, *options: str) -> Iterator[Broker]:
    name = f"warren-test-broker-{uuid.uuid4().hex[:8]}"
    engine.run("run", "--detach", "--name", name, *options, bases(Console(), engine).rabbitmq)
    running = Broker(engine, name)
    try:
        eventually(lambda: "Server startup complete" in running.log(), "the broker has started", limit=START_LIMIT)
        yield running
    finally:
        engine.run("rm", "--force", "--volumes", name, check=False)


@pytest.fixture(scope="module")
def as_root(engine: Engine) -> Iterator[Broker]:
    with broker(engine, "--env", "RABBITMQ_DEFAULT_USER=warren", "--env", "RABBITMQ_DEFAULT_PASS=secret") as running:
        yield running


@pytest.fixture(scope="module")
def as_pod(engine: Engine) -> Iterator[Broker]:
    with broker(engine, *LOCKED, "--user", "999:999") as running:
        yield running


def test_the_broker_is_4_3_and_runs_as_its_user_and_first_process(as_root: Broker) -> None:
    assert as_root.execute("rabbitmqctl", "--quiet", "version").startswith("4.3.")
    status = dict(line.split(":", 1) for line in as_root.execute("cat", "/proc/1/status").splitlines() if ":" in line)
    assert status["Uid"].split() == ["999"] * 4
    assert status["Name"].strip().startswith("beam")


def test_the_given_user_takes_the_place_of_guest(as_root: Broker) -> None:
    users = json.loads(as_root.execute("rabbitmqctl", "--quiet", "list_users", "--formatter", "json"))
    assert [user["user"] for user in users] == ["warren"]


def test_the_brokers_tools_work_for_its_user_and_for_root(as_root: Broker) -> None:
    for user in ("999", "0"):
        as_root.execute("rabbitmq-diagnostics", "-q", "ping", user=user)
    as_root.execute("rabbitmq-upgrade", "await_online_quorum_plus_one")


def test_the_plugins_are_those_of_the_official_image(as_root: Broker) -> None:
    listed = as_root.execute("rabbitmq-plugins", "list", "--silent", "--minimal").split()
    assert {"rabbitmq_management", "rabbitmq_prometheus", "rabbitmq_peer_discovery_k8s"} <= set(listed)
    enabled = as_root.execute("rabbitmq-plugins", "list", "--silent", "--minimal", "--enabled").split()
    assert {"rabbitmq_management", "rabbitmq_prometheus"} <= set(enabled)
    assert "rabbitmq_peer_discovery_k8s" not in enabled


def test_the_broker_runs_as_a_locked_pod(as_pod: Broker) -> None:
    as_pod.execute("rabbitmq-diagnostics", "-q", "ping")
    as_pod.execute("test", "-f", "/var/lib/rabbitmq/.erlang.cookie")


def test_the_broker_ends_well_when_asked(engine: Engine) -> None:
    with broker(engine) as running:
        engine.run("stop", running.name, limit=120)
        code = engine.run("inspect", "--format", "{{.State.ExitCode}}", running.name).stdout.strip()
        assert code == "0", running.log()[-2000:]


def test_the_names_are_written_down(engine: Engine) -> None:
    found = bases(Console(), engine)
    assert json.loads((ROOT / ".cluster/images.json").read_text()) == {
        "python": found.python,
        "rabbitmq": found.rabbitmq,
    }


def test_a_second_build_does_nothing(engine: Engine, clone: Path, images: dict[str, str]) -> None:
    before = [engine.image_id(name) for name in images.values()]
    printed = io.StringIO()
    assert build(Console(stream=printed), clone) == images
    assert printed.getvalue() == ""
    assert [engine.image_id(name) for name in images.values()] == before
