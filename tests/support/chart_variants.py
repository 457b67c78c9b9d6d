"""Values that, between them, switch on everything in the chart."""

from typing import Any

EVERYTHING: dict[str, Any] = {
    "credentials": {"create": "always"},
    "imagePullSecrets": [{"name": "registry"}],
    "commonLabels": {"team": "pictures"},
    "log": {"format": "json", "level": "debug"},
    "queues": {
        "task_queue": {"handler": "dots"},
        "thumbnails": {
            "handler": "shop.images:thumbnail",
            "image": {"registry": "registry.example.com", "repository": "shop/images", "tag": "7"},
            "replicas": {"min": 1, "max": 40},
            "target": {"backlogPerWorker": 2},
            "retry": {"maxAttempts": 3, "minDelay": "500ms", "maxDelay": "1h"},
            "timeLimit": "1h30m",
            "maxLength": 500,
            "messageTTL": "24h",
            "concurrency": 4,
            "executor": "thread",
            "env": {"SIZE": 320, "SHARP": True},
            "extraEnv": [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "shop", "key": "key"}}}],
            "extraEnvFrom": [{"configMapRef": {"name": "shop"}}],
            "extraVolumes": [{"name": "cache", "emptyDir": {}}],
            "extraVolumeMounts": [{"name": "cache", "mountPath": "/cache"}],
            "behavior": {"scaleUp": {"maxStep": 5}, "scaleDown": {"stabilization": "30s"}},
            "fallback": {"afterFailures": 5, "replicas": 2},
            "mode": "Recommend",
            "paused": True,
            "suspend": False,
            "resources": {"limits": {"cpu": 1}},
            "podAnnotations": {"a": "b"},
            "podLabels": {"c": "d"},
            "nodeSelector": {"disk": "fast"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "affinity": {"podAntiAffinity": {}},
            "topologySpreadConstraints": [
                {
                    "maxSkew": 1,
                    "topologyKey": "zone",
                    "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {"matchLabels": {"c": "d"}},
                }
            ],
            "priorityClassName": "low",
            "serviceAccountName": "images",
            "podDisruptionBudget": {"enabled": True, "maxUnavailable": 1},
        },
        "convert": {
            "handler": "exec",
            "exec": {"command": ["convert", "-", 'png: "a"']},
            "maxBodyBytes": 1000,
            "recycle": {"maxTasks": 1000, "maxMemory": "200Mi"},
        },
        "mail": {
            "handler": "http",
            "http": {"url": "http://localhost:9000/tasks?a=b"},
            "sidecars": [{"name": "mailer", "image": "shop/mailer:3", "securityContext": {"runAsUser": 1000}}],
        },
    },
    "producer": {
        "replicas": 2,
        "ingress": {"enabled": True, "host": "warren.example.com", "className": "nginx", "tlsSecret": "tls"},
        "podDisruptionBudget": {"enabled": True},
    },
    "operator": {
        "replicas": 2,
        "watchNamespaces": ["warren", "shop"],
        "priorityClassName": "high",
        "podDisruptionBudget": {"enabled": True},
    },
    "broker": {
        "tutorialUser": {"enabled": True},
        "persistence": {"storageClass": "fast", "annotations": {"keep": "yes"}},
        "extraConfig": "channel_max = 100\n",
        "extraPlugins": ["rabbitmq_shovel"],
        "podDisruptionBudget": {"enabled": True},
    },
    "networkPolicy": {"enabled": True, "brokerFrom": [{"podSelector": {"matchLabels": {"app": "shop"}}}]},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-own"}}],
}

EXTERNAL: dict[str, Any] = {"broker": {"external": {"enabled": True, "existingSecret": "rabbit"}}}

VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {"credentials": {"create": "always"}},
    "everything": EVERYTHING,
    "external broker": EXTERNAL,
    "all namespaces": {"operator": {"watchNamespaces": ["*"]}, "broker": {"persistence": {"enabled": False}}},
}
