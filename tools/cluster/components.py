"""The programs of the cluster and how each is configured: pure functions of the layout and of where things lie."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.cluster.component import Component
from tools.cluster.layout import (
    API_PORT,
    DNS_SERVICE,
    DOMAIN,
    MAX_PODS,
    POD_CIDR,
    SERVICE_CIDR,
    Layout,
    Node,
)
from tools.cluster.pki import SERVICE_ACCOUNTS
from tools.cluster.places import Places

PAUSE_IMAGE = "warren/pause:1"

FAST_CLIENT = ("--kube-api-qps=300", "--kube-api-burst=600")
"""Clients inside the control plane are throttled to 20 requests a second by default, which a test of scaling would
measure instead of what it wants to measure."""


@dataclass(frozen=True)
class Machine:
    """What the components need to know of the machine."""

    programs: Mapping[str, str]
    """Path of each program by name."""
    cni_plugins: str
    """The folder with the network plugins."""
    path: str = ""
    """A folder with the right `iptables`, or nothing where the one in PATH works."""


def control_plane(layout: Layout, places: Places, machine: Machine) -> tuple[Component, ...]:
    """etcd, API server, controller manager, scheduler, DNS, storage: in the first node's network namespace."""
    node = layout.control_plane
    return (
        _etcd(node, places, machine),
        _api_server(node, places, machine),
        _controller_manager(node, places, machine),
        _scheduler(node, places, machine),
        _dns(node, places, machine),
        _provisioner(node, places, machine),
    )


def node_components(node: Node, places: Places, machine: Machine) -> tuple[Component, ...]:
    """containerd, kubelet, kube-proxy of one node."""
    return (
        _containerd(node, places, machine),
        _kubelet(node, places, machine),
        _kube_proxy(node, places, machine),
    )


def containerd_socket(node: Node, places: Places) -> Path:
    """Where the node's containerd listens."""
    return node.state(places.run) / "containerd.sock"


def kubeconfig_path(name: str, places: Places) -> Path:
    """The kubeconfig of a component, by the name of its certificate."""
    return places.config / f"{name}.kubeconfig"


def _pair(places: Places, name: str) -> tuple[str, str]:
    return f"{places.pki}/{name}.crt", f"{places.pki}/{name}.key"


def _etcd(node: Node, places: Places, machine: Machine) -> Component:
    client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
    return Component(
        "etcd",
        (
            machine.programs["etcd"],
            f"--data-dir={places.state}/etcd",
            f"--name={node.name}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster={node.name}={peer}",
            "--listen-metrics-urls=http://127.0.0.1:2381",
            # The state of a local cluster may be lost with the machine's power, not with a process: files written
            # without fsync survive a kill. On a slow disk this is the difference between seconds and milliseconds.
            "--unsafe-no-fsync",
            "--auto-compaction-mode=periodic",
            "--auto-compaction-retention=5m",
            "--quota-backend-bytes=4294967296",
            "--log-level=warn",
        ),
        node.netns,
        "http://127.0.0.1:2381/health",
    )


def _api_server(node: Node, places: Places, machine: Machine) -> Component:
    certificate, key = _pair(places, "api-server")
    kubelet_certificate, kubelet_key = _pair(places, "api-server-to-kubelet")
    proxy_certificate, proxy_key = _pair(places, "front-proxy")
    authority, proxy_authority = f"{places.pki}/ca.crt", f"{places.pki}/front-proxy-ca.crt"
    tokens = f"{places.pki}/{SERVICE_ACCOUNTS}"
    return Component(
        "kube-apiserver",
        (
            machine.programs["kube-apiserver"],
            "--etcd-servers=http://127.0.0.1:2379",
            f"--advertise-address={node.address}",
            f"--secure-port={API_PORT}",
            f"--service-cluster-ip-range={SERVICE_CIDR}",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            f"--client-ca-file={authority}",
            f"--kubelet-certificate-authority={authority}",
            f"--kubelet-client-certificate={kubelet_certificate}",
            f"--kubelet-client-key={kubelet_key}",
            # By name, it would try to resolve the node for `kubectl logs` and `exec`.
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-account-issuer=https://kubernetes.default.svc.{DOMAIN}",
            f"--service-account-key-file={tokens}.pub",
            f"--service-account-signing-key-file={tokens}.key",
            f"--requestheader-client-ca-file={proxy_authority}",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={proxy_certificate}",
            f"--proxy-client-key-file={proxy_key}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--max-requests-inflight=800",
            "--max-mutating-requests-inflight=400",
        ),
        node.netns,
        f"https://127.0.0.1:{API_PORT}/readyz",
        inputs=(
            *(certificate, key, authority, kubelet_certificate, kubelet_key, proxy_certificate, proxy_key),
            *(proxy_authority, f"{tokens}.pub", f"{tokens}.key"),
        ),
    )


def _controller_manager(node: Node, places: Places, machine: Machine) -> Component:
    kubeconfig = str(kubeconfig_path("controller-manager", places))
    authority, authority_key = _pair(places, "ca")
    tokens, proxy_authority = f"{places.pki}/{SERVICE_ACCOUNTS}.key", f"{places.pki}/front-proxy-ca.crt"
    return Component(
        "kube-controller-manager",
        (
            machine.programs["kube-controller-manager"],
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1",
            f"--client-ca-file={authority}",
            f"--requestheader-client-ca-file={proxy_authority}",
            f"--root-ca-file={authority}",
            f"--service-account-private-key-file={tokens}",
            f"--cluster-signing-cert-file={authority}",
            f"--cluster-signing-key-file={authority_key}",
            "--use-service-account-credentials=true",
            f"--flex-volume-plugin-dir={node.state(places.state)}/volume-plugins",
            # There is one; and one that loses its lease for being starved of CPU would end itself.
            "--leader-elect=false",
            "--concurrent-deployment-syncs=20",
            "--concurrent-replicaset-syncs=20",
            "--concurrent-endpoint-syncs=10",
            *FAST_CLIENT,
        ),
        node.netns,
        "https://127.0.0.1:10257/healthz",
        inputs=(kubeconfig, authority, authority_key, tokens, proxy_authority),
    )


def _scheduler(node: Node, places: Places, machine: Machine) -> Component:
    kubeconfig, config = str(kubeconfig_path("scheduler", places)), f"{places.config}/scheduler.json"
    return Component(
        "kube-scheduler",
        (
            machine.programs["kube-scheduler"],
            f"--config={config}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1",
        ),
        node.netns,
        "https://127.0.0.1:10259/healthz",
        files={
            config: _json(
                {
                    "apiVersion": "kubescheduler.config.k8s.io/v1",
                    "kind": "KubeSchedulerConfiguration",
                    "clientConnection": {"kubeconfig": kubeconfig, "qps": 300, "burst": 600},
                    "leaderElection": {"leaderElect": False},
                }
            )
        },
        inputs=(kubeconfig,),
    )


def corefile(node: Node, kubeconfig: str) -> str:
    """CoreDNS's configuration: names of the cluster; for all others, at once, that they do not exist.

    Nothing leaves the cluster's network, and a name asked of nobody would keep a client waiting for seconds.
    """
    # Two blocks: within one, CoreDNS asks `template` before `kubernetes`, whatever their order here.
    return f"""{DOMAIN}:53 in-addr.arpa:53 ip6.arpa:53 {{
    bind {node.address}
    errors
    health 127.0.0.1:8080 {{
        lameduck 0s
    }}
    ready 127.0.0.1:8181
    kubernetes {DOMAIN} in-addr.arpa ip6.arpa {{
        kubeconfig {kubeconfig} warren
        pods insecure
        ttl 5
    }}
    cache 5 {DOMAIN}
}}
.:53 {{
    bind {node.address}
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""


def _dns(node: Node, places: Places, machine: Machine) -> Component:
    kubeconfig, config = str(kubeconfig_path("dns", places)), f"{places.config}/Corefile"
    return Component(
        "coredns",
        (machine.programs["coredns"], "-conf", config),
        node.netns,
        "http://127.0.0.1:8181/ready",
        files={config: corefile(node, kubeconfig)},
        inputs=(kubeconfig,),
    )


def _provisioner(node: Node, places: Places, machine: Machine) -> Component:
    kubeconfig = str(kubeconfig_path("provisioner", places))
    return Component(
        "provisioner",
        (machine.programs["provisioner"], f"-kubeconfig={kubeconfig}", f"-root={places.volumes}"),
        node.netns,
        inputs=(kubeconfig,),
    )


def containerd_config(node: Node, places: Places, machine: Machine) -> str:
    """containerd's configuration, in the version that 1.6 writes and 2 still reads."""
    state, run = node.state(places.state), node.state(places.run)
    return f"""version = 2
root = "{state}/containerd"
state = "{run}/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"]

[grpc]
address = "{containerd_socket(node, places)}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
# Without CAP_SYS_RESOURCE, lowering a score below our own fails, and every pod with it.
restrict_oom_score_adj = true
tolerate_missing_hugetlb_controller = true
# Else in /run/netns, among the machine's own.
netns_mounts_under_state_dir = true

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
Root = "{run}/runc"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{machine.cni_plugins}"
conf_dir = "{state}/cni"
"""


def pod_network(node: Node, places: Places) -> str:
    """The network plugins' configuration: a bridge for the node's pods."""
    return _json(
        {
            "cniVersion": "0.4.0",
            "name": node.name,
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "isGateway": True,
                    "hairpinMode": True,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": node.pod_cidr}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                        # Under /run: after a reboot no pod has an address, whatever a file from before says.
                        "dataDir": f"{node.state(places.run)}/addresses",
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }
    )


def _containerd(node: Node, places: Places, machine: Machine) -> Component:
    config = f"{node.state(places.state)}/containerd.toml"
    return Component(
        f"containerd-{node.name}",
        (machine.programs["containerd"], "--config", config, "--log-level", "warn"),
        node.netns,
        f"unix:{containerd_socket(node, places)}",
        files={
            config: containerd_config(node, places, machine),
            f"{node.state(places.state)}/cni/10-{node.name}.conflist": pod_network(node, places),
        },
        path=machine.path,
    )


def _kubelet(node: Node, places: Places, machine: Machine) -> Component:
    state = node.state(places.state)
    kubeconfig, config = str(kubeconfig_path(f"node-{node.name}", places)), f"{state}/kubelet.json"
    certificate, key = _pair(places, f"kubelet-{node.name}")
    authority = f"{places.pki}/ca.crt"
    settings = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.address,
        "healthzBindAddress": "127.0.0.1",
        "tlsCertFile": certificate,
        "tlsPrivateKeyFile": key,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": authority},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": node.cgroup,
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "containerRuntimeEndpoint": f"unix://{containerd_socket(node, places)}",
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": DOMAIN,
        "resolvConf": "",
        "podLogsDir": f"{state}/logs",
        "volumePluginDir": f"{state}/volume-plugins",
        "maxPods": MAX_PODS,
        # No limits but those of the machine: many pods start at once here.
        "registryPullQPS": 0,
        "serializeImagePulls": False,
        "eventRecordQPS": 0,
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
        # 100 = never: images are loaded by hand here, and could not be pulled again.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
        },
        "containerLogMaxSize": "10Mi",
    }
    return Component(
        f"kubelet-{node.name}",
        (
            machine.programs["kubelet"],
            f"--config={config}",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={node.name}",
            f"--node-ip={node.address}",
            f"--root-dir={state}/kubelet",
            f"--cert-dir={state}/kubelet/pki",
        ),
        node.netns,
        "http://127.0.0.1:10248/healthz",
        files={config: _json(settings)},
        inputs=(kubeconfig, certificate, key, authority),
        path=machine.path,
    )


def _kube_proxy(node: Node, places: Places, machine: Machine) -> Component:
    kubeconfig, config = str(kubeconfig_path("proxy", places)), f"{node.state(places.state)}/kube-proxy.json"
    settings = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "hostnameOverride": node.name,
        "clusterCIDR": POD_CIDR,
        "clientConnection": {"kubeconfig": kubeconfig, "qps": 50, "burst": 100},
        # The limits of connection tracking are the machine's, not a namespace's.
        "conntrack": {"maxPerCore": 0, "min": 0},
        "iptables": {"minSyncPeriod": "100ms"},
        "oomScoreAdj": 0,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
    }
    return Component(
        f"kube-proxy-{node.name}",
        (machine.programs["kube-proxy"], f"--config={config}"),
        node.netns,
        "http://127.0.0.1:10256/livez",
        files={config: _json(settings)},
        inputs=(kubeconfig,),
        path=machine.path,
    )


def _json(value: object) -> str:
    # Kubernetes reads JSON wherever it reads YAML.
    return json.dumps(value, indent=2) + "\n"
