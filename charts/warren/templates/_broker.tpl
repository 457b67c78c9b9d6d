{{- define "warren.brokerHost" -}}
{{ include "warren.fullname" . }}-rabbitmq
{{- end }}

{{/*
What RabbitMQ imports each time it starts, before it listens: the virtual host, one user for each part and their rights.
An import overwrites the passwords of users that are there, so a new release over an old volume works. It removes
nothing: hence guest is always named, without a password (nobody can log in so) and without rights unless it is wanted,
or switching it off would change nothing.
A passive declare, which tells a queue's length, needs one of the three rights on the queue. Hence a producer may write to
work queues, which allows nothing else but binding them to an exchange that it may read; and no user may read more.
Takes (dict "users" part → {username, password} "tutorialUser" bool).
*/}}
{{- define "warren.definitions" -}}
{{- $workQueues := "(?!amq\\.|warren\\.)(?!.*\\.dead$).+" }}
{{- $rights := dict
  "producer" (dict "tags" list "configure" "^warren\\.producer\\..*$" "write" (printf "^(warren\\.(tasks|events|producer\\..*)|%s)$" $workQueues) "read" "^warren\\.(events|producer\\..*)$")
  "worker" (dict "tags" list "configure" "^$" "write" "^warren\\.(dead|events)$" "read" (printf "^%s$" $workQueues))
  "operator" (dict "tags" (list "policymaker" "monitoring") "configure" ".*" "write" ".*" "read" ".*") }}
{{- $users := list }}
{{- $permissions := list }}
{{- range $part, $user := .users }}
{{- $right := get $rights $part }}
{{- $users = append $users (dict "name" $user.username "password" $user.password "tags" $right.tags) }}
{{- $permissions = append $permissions (merge (dict "user" $user.username "vhost" "/") (omit $right "tags")) }}
{{- end }}
{{- if .tutorialUser }}
{{- $users = append $users (dict "name" "guest" "password" "guest" "tags" list) }}
{{- $permissions = append $permissions (dict "user" "guest" "vhost" "/" "configure" (printf "^%s$" $workQueues) "write" (printf "^(amq\\.default|%s)$" $workQueues) "read" (printf "^%s$" $workQueues)) }}
{{- else }}
{{- $users = append $users (dict "name" "guest" "password_hash" "" "hashing_algorithm" "rabbit_password_hashing_sha256" "tags" list) }}
{{- $permissions = append $permissions (dict "user" "guest" "vhost" "/" "configure" "^$" "write" "^$" "read" "^$") }}
{{- end }}
{{- $vhost := dict "name" "/" "metadata" (dict "description" "Warren" "tags" list "default_queue_type" "quorum") }}
{{- toPrettyJson (dict "users" $users "vhosts" (list $vhost) "permissions" $permissions) }}
{{- end }}

{{- define "warren.rabbitmqConf" -}}
log.console = true
log.console.level = info
log.console.use_colors = off
log.file = false
# A line for each connection that comes and goes, and for each call to the management API, is no news.
log.connection.level = warning
log.user.level = warning

# Users, their rights and the virtual host; imported at each start.
load_definitions = /etc/warren/rabbitmq/definitions.json
loopback_users.guest = true
# Queues declared without a type, such as the tutorial's, are replicated and keep their messages on disk.
default_queue_type = quorum

# From 4.1 on this asks Kubernetes nothing: members are known by their numbers in the StatefulSet.
cluster_formation.peer_discovery_backend = k8s
cluster_formation.target_cluster_size_hint = {{ .Values.broker.replicas }}
queue_leader_locator = balanced

{{- with dig "limits" "memory" "" (default dict .Values.broker.resources) }}

# The container's limit, which the Erlang machine does not see.
total_memory_available_override_value = {{ include "warren.bytes" . }}
{{- end }}
vm_memory_high_watermark.relative = 0.6
disk_free_limit.absolute = {{ .Values.broker.diskFreeLimit }}
raft.wal_max_size_bytes = {{ .Values.broker.walMaxSizeBytes | int64 }}

listeners.tcp.default = 5672
management.tcp.port = 15672
prometheus.tcp.port = 15692
{{- with .Values.broker.extraConfig }}

{{ trimSuffix "\n" . }}
{{- end }}
{{- end }}

{{- define "warren.enabledPlugins" -}}
[{{ concat (list "rabbitmq_management" "rabbitmq_prometheus" "rabbitmq_peer_discovery_k8s") .Values.broker.extraPlugins | uniq | join "," }}].
{{- end }}
