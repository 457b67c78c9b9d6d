"""The objects that every cluster has from the start: DNS service, storage class, rights of our own components."""

import json
from typing import Any

from tools.cluster.layout import DNS_SERVICE, Node

STORAGE_CLASS = "standard"
PROVISIONER = "warren.dev/folder"
"""As the provisioner itself calls itself (go/provisioner/main.go)."""


def manifests(node: Node) -> str:
    """All of them, for `kubectl apply`."""
    ports = (("dns", "UDP"), ("dns-tcp", "TCP"))
    labels = {"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS"}
    objects: list[dict[str, Any]] = [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
            # No selector: CoreDNS runs on the node, not in a pod.
            "spec": {
                "clusterIP": DNS_SERVICE,
                "ports": [{"name": name, "protocol": protocol, "port": 53} for name, protocol in ports],
            },
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "kube-dns-node",
                "namespace": "kube-system",
                "labels": {
                    "kubernetes.io/service-name": "kube-dns",
                    "endpointslice.kubernetes.io/managed-by": "warren",
                },
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [node.address], "conditions": {"ready": True}}],
            "ports": [{"name": name, "protocol": protocol, "port": 53} for name, protocol in ports],
        },
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": STORAGE_CLASS,
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": PROVISIONER,
            "volumeBindingMode": "WaitForFirstConsumer",
            "reclaimPolicy": "Delete",
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "warren:coredns"},
            "rules": [
                {
                    "apiGroups": [""],
                    "resources": ["services", "pods", "namespaces"],
                    "verbs": ["list", "watch"],
                },
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
            ],
        },
        _binding("warren:coredns", "warren:coredns", "system:coredns"),
        # Kubernetes brings this role along, for provisioners to be bound to it.
        _binding("warren:provisioner", "system:persistent-volume-provisioner", "system:persistent-volume-provisioner"),
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})


def _binding(name: str, role: str, user: str) -> dict[str, Any]:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    }
