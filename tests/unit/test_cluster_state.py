"""What runs, is mounted, loaded and answers: read from texts of the machine."""

import hashlib
import io
import json
import socket
import struct
import tarfile
from pathlib import Path

import pytest

from tools.cluster.health import dns_answered, dns_query
from tools.cluster.images import (
    Image,
    archive_images,
    missing,
    parse_archive_manifest,
    parse_list,
    pause_archive,
    short_name,
    stored_name,
    written_out,
)
from tools.cluster.kernel import parse_hierarchies, parse_mounts, version_1
from tools.cluster.kind import config, node_names, parse_crictl
from tools.cluster.layout import layout
from tools.cluster.node import continues, nodes_there, ready_nodes, remove_dead_sockets
from tools.cluster.places import Places
from tools.cluster.supervise import KEEPER, KEEPER_NAME, Action, Process, decide, parse_process
from tools.shell import ToolError

KEEPER_ARGV = ("/bin/sh", "-c", KEEPER, KEEPER_NAME, "/programs/etcd", "--data-dir=/x")
KEPT = Process(1, "etcd", "new", KEEPER_ARGV)
PROGRAM = Process(2, "etcd", "new", ("/programs/etcd", "--data-dir=/x"))
SHIM = Process(3, "containerd-warren", "old", ("/usr/bin/containerd-shim-runc-v2", "-namespace", "k8s.io"))


def environ(*variables: str) -> bytes:
    return b"".join(variable.encode() + b"\0" for variable in variables)


def test_a_process_of_ours_says_so_in_its_environment() -> None:
    ours = environ("PATH=/bin", "WARREN_CLUSTER_COMPONENT=etcd", "WARREN_CLUSTER_FINGERPRINT=abc")
    assert parse_process(7, ours, b"/x/etcd\0--data\0") == Process(7, "etcd", "abc", ("/x/etcd", "--data"))
    assert parse_process(7, environ("PATH=/bin", "OTHER=WARREN_CLUSTER_COMPONENT=etcd"), b"etcd\0") is None
    assert parse_process(7, b"", b"") is None


@pytest.mark.parametrize(
    ("noted", "now", "same"),
    [
        ("boot 7", "boot 7", True),
        ("boot 7", "boot 7 none", True),  # a node more
        ("boot 7 8 9", "boot 7", True),  # two less
        ("boot 7", "other 7", False),
        ("boot 7 8", "boot 7 none", False),
        ("boot 7 8", "boot none 8", False),
    ],
)
def test_only_a_reboot_or_a_lost_network_begins_anew(noted: str, now: str, same: bool) -> None:
    assert continues(noted, now) is same


def test_the_nodes_there_are_those_with_a_folder_also_if_one_between_them_is_gone(tmp_path: Path) -> None:
    places = Places(state=tmp_path)
    assert nodes_there(places) == 0
    nodes = layout(3).nodes
    nodes[0].state(places.state).mkdir(parents=True)
    assert nodes_there(places) == 1
    nodes[2].state(places.state).mkdir(parents=True)
    assert nodes_there(places) == 3


@pytest.mark.parametrize(
    ("running", "action"),
    [
        ([], Action.START),
        ([KEPT, PROGRAM], Action.KEEP),
        # Its keeper is about to start it again.
        ([KEPT], Action.KEEP),
        ([PROGRAM], Action.RESTART),
        ([KEPT, Process(4, "etcd", "new", KEEPER_ARGV), PROGRAM], Action.RESTART),
        ([Process(1, "etcd", "old", KEEPER_ARGV), Process(2, "etcd", "old", PROGRAM.argv)], Action.RESTART),
        ([KEPT, Process(2, "etcd", "old", PROGRAM.argv)], Action.RESTART),
        ([SHIM], Action.START),
    ],
)
def test_what_a_component_needs(running: list[Process], action: Action) -> None:
    assert decide("etcd", "new", running) is action


def test_pods_of_before_do_not_make_containerd_start_again() -> None:
    argv = ("/bin/sh", "-c", KEEPER, KEEPER_NAME, "/usr/bin/containerd")
    assert decide("containerd-warren", "new", [SHIM]) is Action.START
    assert decide("containerd-warren", "new", [SHIM, Process(4, "containerd-warren", "new", argv)]) is Action.KEEP


HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw shared:5 - cgroup2 cgroup2 rw
"""
UNIFIED = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"


def test_the_hierarchies_of_both_versions() -> None:
    hybrid = parse_hierarchies(HYBRID)
    assert [(str(found.root), found.controllers, found.unified) for found in hybrid] == [
        ("/sys/fs/cgroup/cpu,cpuacct", ("cpu", "cpuacct"), False),
        ("/sys/fs/cgroup/memory", ("memory",), False),
        ("/sys/fs/cgroup/systemd", (), False),
        ("/sys/fs/cgroup/unified", (), True),
    ]
    assert version_1(hybrid)
    (unified,) = parse_hierarchies(UNIFIED)
    assert unified.unified
    assert not version_1([unified])


def test_mounts_are_undone_from_the_inside_out_and_nobody_elses() -> None:
    mountinfo = """\
1 0 0:1 / / rw - ext4 /dev/a rw
2 1 0:2 / /var/lib/warren-cluster/a rw - tmpfs t rw
3 2 0:3 / /var/lib/warren-cluster/a/with\\040space rw - tmpfs t rw
4 1 0:4 / /var/lib/warren-cluster-of-another rw - tmpfs t rw
5 1 0:5 / /run/warren-cluster rw - tmpfs t rw
"""
    assert parse_mounts(mountinfo, (Path("/var/lib/warren-cluster"), Path("/run/warren-cluster"))) == [
        "/run/warren-cluster",
        "/var/lib/warren-cluster/a/with space",
        "/var/lib/warren-cluster/a",
    ]


def test_only_dead_sockets_are_removed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with socket.socket(socket.AF_UNIX) as alive, socket.socket(socket.AF_UNIX) as dead:
        alive.bind(str(tmp_path / "alive"))
        alive.listen()
        dead.bind(str(tmp_path / "dead"))
        dead.close()
        remove_dead_sockets(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["alive", "file"]


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("python:3.13-slim", "python:3.13-slim"),
        ("python", "python:latest"),
        ("warren/worker:0.1.0", "warren/worker:0.1.0"),
        ("registry.example/library/python:3.13-slim", "python:3.13-slim"),
        ("registry.example/warren/worker:0.1.0", "warren/worker:0.1.0"),
        ("localhost/x:1", "x:1"),
        ("registry.example:5000/a/b", "a/b:latest"),
        ("library/of/mine:1", "library/of/mine:1"),
        ("registry.example/a@sha256:00", "a@sha256:00"),
    ],
)
def test_names_are_compared_as_people_write_them(name: str, short: str) -> None:
    assert short_name(name) == short


@pytest.mark.parametrize("name", ["python:3", "warren/worker:1"])
def test_a_name_written_out_is_the_same_name(name: str) -> None:
    full = written_out(name, like="registry.example/warren/pause:1")
    assert full.startswith("registry.example/")
    assert short_name(full) == name
    assert stored_name(name, ["registry.example/other/x:1", full]) == full


def test_an_image_that_is_not_stored_is_named() -> None:
    with pytest.raises(ToolError, match="warren/worker:1"):
        stored_name("warren/worker:1", ["registry.example/warren/worker:2"])


def test_both_forms_of_an_archives_manifest() -> None:
    old = json.dumps([{"Config": "ab12.json", "RepoTags": ["a:1", "b:2"], "Layers": []}])
    new = json.dumps([{"Config": "blobs/sha256/ab12", "RepoTags": None, "Layers": []}])
    assert parse_archive_manifest(old) == (Image("sha256:ab12", ("a:1", "b:2")),)
    assert parse_archive_manifest(new) == (Image("sha256:ab12", ()),)


def test_what_is_no_archive_of_images_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(b"nothing")
    with pytest.raises(ToolError, match="docker save"):
        archive_images(path)
    with pytest.raises(ToolError, match="docker save"):
        archive_images(tmp_path / "missing.tar")


def test_an_image_is_loaded_unless_it_is_there_under_all_its_names() -> None:
    image = Image("sha256:1", ("a:1", "b:1"))
    both = {"a:1": "sha256:1", "b:1": "sha256:1"}
    assert missing([image], both) == ()
    assert missing([image], {}) == (image,)
    assert missing([image], {**both, "b:1": "sha256:2"}) == (image,)


def test_the_list_of_images() -> None:
    output = """\
REF                          TYPE      DIGEST     SIZE    PLATFORMS   LABELS
registry.example/warren/pause:1     type/json sha256:aaa 1.4 MiB linux/amd64 a=b,warren.dev/image-id=sha256:bbb
registry.example/other:1     type/json sha256:ccc 1.4 MiB linux/amd64 a=b
"""
    assert parse_list(output) == {"warren/pause:1": "sha256:bbb"}


def test_the_pause_image_is_the_same_each_time_and_nobody_in_particular(tmp_path: Path) -> None:
    content = pause_archive(b"program", "warren/pause:1")
    assert pause_archive(b"program", "warren/pause:1") == content
    path = tmp_path / "pause.tar"
    path.write_bytes(content)
    (image,) = archive_images(path)
    assert image.names == ("warren/pause:1",)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        file = tar.extractfile(f"{image.id.removeprefix('sha256:')}.json")
        layer = tar.extractfile("layer.tar")
        assert file is not None
        assert layer is not None
        settings = json.loads(file.read())
        assert settings["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer.read()).hexdigest()}"]
    assert settings["config"]["User"] == "65535:65535"


def test_only_nodes_that_are_ready_count() -> None:
    def node(name: str, status: str) -> dict[str, object]:
        return {"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": status}]}}

    items = [node("a", "True"), node("b", "Unknown"), node("c", "False"), {"metadata": {"name": "d"}}]
    assert ready_nodes(json.dumps({"items": items})) == {"a"}
    assert ready_nodes("The connection was refused") == set()


def test_a_dns_answer() -> None:
    query = dns_query("kubernetes.default.svc.cluster.local", 77)
    assert query[12:].startswith(b"\x0akubernetes\x07default\x03svc\x07cluster\x05local\x00")

    def reply(flags: int, answers: int, identifier: int = 77) -> bytes:
        return struct.pack("!6H", identifier, flags, 1, answers, 0, 0) + query[12:]

    assert dns_answered(reply(0x8400, 1), 77)
    assert not dns_answered(reply(0x8400, 0), 77)
    assert not dns_answered(reply(0x8403, 1), 77), "no such name"
    assert not dns_answered(reply(0x8400, 1, identifier=78), 77), "an answer to another question"
    assert not dns_answered(reply(0x0100, 1), 77), "a question"
    assert not dns_answered(b"", 77)


def test_kinds_configuration_lets_the_kubelet_start_on_either_version_of_control_groups() -> None:
    new = json.loads(config(1, cgroup_v1=False))
    assert [node["role"] for node in new["nodes"]] == ["control-plane"]
    assert "kubeadmConfigPatches" not in new
    old = json.loads(config(3, cgroup_v1=True))
    assert [node["role"] for node in old["nodes"]] == ["control-plane", "worker", "worker"]
    assert json.loads(old["kubeadmConfigPatches"][0])["failCgroupV1"] is False


def test_kinds_nodes_and_images() -> None:
    assert node_names("warren-control-plane\nwarren-worker\n") == ("warren-control-plane", "warren-worker")
    assert node_names('No kind nodes found for cluster "warren".\n') == ()
    listed = {"images": [{"id": "sha256:1", "repoTags": ["registry.example/warren/worker:1"]}, {"id": "sha256:2"}]}
    assert parse_crictl(json.dumps(listed)) == {"warren/worker:1": "sha256:1"}
