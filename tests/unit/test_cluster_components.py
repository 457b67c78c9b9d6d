"""The configuration of the cluster's components, without starting any."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tools.cluster import pki
from tools.cluster.component import Component
from tools.cluster.components import Machine, control_plane, corefile, node_components
from tools.cluster.layout import API_ADDRESS, API_SERVICE, DNS_SERVICE, Node, layout
from tools.cluster.manifests import PROVISIONER, STORAGE_CLASS, manifests
from tools.cluster.places import Places, places
from tools.cluster.programs import MODULES, NODE_BUILDS

PLACES = Places(state=Path("/state"), run=Path("/run/c"), cache=Path("/cache"), local=Path("/clone/.cluster"))
PROGRAMS = {name: f"/programs/{name}" for build in NODE_BUILDS for name in build.programs}
MACHINE = Machine({**PROGRAMS, "containerd": "/usr/bin/containerd"}, "/usr/lib/cni")


def components(nodes: int = 1) -> tuple[Component, ...]:
    wanted = layout(nodes)
    found = control_plane(wanted, PLACES, MACHINE)
    for node in wanted.nodes:
        found += node_components(node, PLACES, MACHINE)
    return found


def test_each_component_has_a_name_of_its_own_also_with_more_nodes() -> None:
    names = [component.name for component in components(3)]
    assert len(names) == len(set(names)) == 6 + 3 * 3


def test_nodes_share_no_folder_address_or_network() -> None:
    nodes = layout(3).nodes
    for value in (
        [node.name for node in nodes],
        [node.address for node in nodes],
        [node.pod_cidr for node in nodes],
        [node.cgroup for node in nodes],
        [str(node.state(PLACES.state)) for node in nodes],
    ):
        assert len(set(value)) == 3


@pytest.mark.parametrize("count", [0, 10])
def test_a_number_of_nodes_that_cannot_be_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="1 to 9"):
        layout(count)


def test_components_write_only_below_the_clusters_own_folders() -> None:
    for component in components():
        for path in component.files or {}:
            assert path.startswith(("/state/", "/run/c/"))
        for word in component.argv[1:]:
            path = word.partition("=")[2] or word
            if path.startswith("/"):
                assert path.startswith(("/state/", "/run/c/")), f"{component.name}: {word}"


def test_a_component_starts_again_only_for_a_change_of_its_own() -> None:
    api = components()[1]
    contents = dict.fromkeys(api.inputs, b"certificate")
    before = api.fingerprint(contents)
    assert api.fingerprint(dict(contents)) == before
    assert replace(api, argv=(*api.argv, "--v=2")).fingerprint(contents) != before
    assert replace(api, files={"/state/x": "changed"}).fingerprint(contents) != before
    assert api.fingerprint({**contents, api.inputs[0]: b"another"}) != before


def test_what_a_component_reads_is_what_the_authority_makes() -> None:
    made = {
        f"/state/pki/{certificate.name}.{ending}"
        for certificate in pki.certificates(layout())
        for ending in ("crt", "key")
    }
    made |= {f"/state/pki/{name}.{ending}" for name in pki.AUTHORITIES for ending in ("crt", "key")}
    made |= {f"/state/pki/{pki.SERVICE_ACCOUNTS}.{ending}" for ending in ("key", "pub")}
    kubeconfigs = {f"/state/config/{certificate.name}.kubeconfig" for certificate in pki.certificates(layout())}
    for component in components():
        assert set(component.inputs) <= made | kubeconfigs, component.name


def test_the_api_servers_certificate_has_every_address_it_is_reached_by() -> None:
    server = next(certificate for certificate in pki.certificates(layout()) if certificate.name == "api-server")
    assert {API_ADDRESS, API_SERVICE, Node(0).address, "127.0.0.1", "kubernetes.default.svc"} <= set(server.hosts)
    assert f"IP:{API_ADDRESS}" in pki.extensions(server)
    assert "DNS:kubernetes.default.svc," in pki.extensions(server)
    assert "serverAuth" in pki.extensions(server)
    assert "clientAuth" not in pki.extensions(server)


def test_a_node_may_only_be_itself() -> None:
    node = next(certificate for certificate in pki.certificates(layout()) if certificate.name == "node-warren")
    assert pki.subject(node) == "/O=system:nodes/CN=system:node:warren"
    assert "clientAuth" in pki.extensions(node)


def test_certificates_are_made_once_and_those_of_another_node_are_added(tmp_path: Path) -> None:
    folder = tmp_path / "pki"
    pki.ensure(folder, layout(1))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    pki.ensure(folder, layout(2))
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name: after[name] for name in before} == before
    assert "node-warren-2.crt" in after
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.glob("*.key"))


def test_a_certificate_that_was_half_made_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "pki"
    pki.ensure(folder, layout())
    admin, proxy = (folder / "admin.crt").read_bytes(), (folder / "proxy.crt").read_bytes()
    (folder / "admin.made").unlink()
    pki.ensure(folder, layout())
    assert (folder / "admin.crt").read_bytes() != admin
    assert (folder / "proxy.crt").read_bytes() == proxy


def test_the_kubeconfig_needs_no_other_file(tmp_path: Path) -> None:
    pki.ensure(tmp_path / "pki", layout())
    text = pki.kubeconfig(tmp_path / "pki", "admin", "https://198.18.255.2:6443")
    assert "current-context: warren" in text
    assert str(tmp_path) not in text
    assert len(re.findall(r"-data: [A-Za-z0-9+/]{40,}=*$", text, re.MULTILINE)) == 3


def test_the_kubelet_keeps_its_images_and_finds_dns() -> None:
    kubelet = next(component for component in components() if component.name == "kubelet-warren")
    settings = json.loads(next(iter((kubelet.files or {}).values())))
    assert settings["imageGCHighThresholdPercent"] == 100
    assert settings["clusterDNS"] == [DNS_SERVICE]
    assert settings["maxPods"] >= 250
    assert settings["authentication"]["anonymous"] == {"enabled": False}


def test_the_default_storage_class_is_the_provisioners() -> None:
    objects = json.loads(manifests(Node(0)))["items"]
    (found,) = (item for item in objects if item["kind"] == "StorageClass")
    assert found["metadata"]["name"] == STORAGE_CLASS == "standard"
    assert found["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true"
    assert f'provisionerName = "{found["provisioner"]}"' in (MODULES / "provisioner" / "main.go").read_text()
    assert found["provisioner"] == PROVISIONER


def test_names_outside_the_cluster_are_answered_by_a_block_of_their_own() -> None:
    blocks = re.findall(r"^(\S.*) \{\n((?:    .*\n)+)\}", corefile(Node(0), "/kubeconfig"), re.MULTILINE)
    served = dict(blocks)
    assert "kubernetes" not in served[".:53"]
    assert "template" in served[".:53"]
    (cluster,) = (body for names, body in blocks if names.startswith("cluster.local"))
    assert "template" not in cluster


def test_the_cache_lies_where_the_user_keeps_caches() -> None:
    assert places({"XDG_CACHE_HOME": "/elsewhere"}).cache == Path("/elsewhere/warren")
    assert places({}).cache == Path.home() / ".cache" / "warren"
