{{- define "warren.brokerHost" -}}
{{ include "warren.fullname" . }}-rabbitmq
{{- end }}

{{/*
Helm deletes what the release made and this rendering leaves out. Name of a broker of this release for which that is so,
unless Helm is told to keep it. The selector has the part's label also where `commonLabels` says otherwise. A release of a
chart that contains this one may have brokers of other charts.
*/}}
{{- define "warren.brokerLost" -}}
{{- $rendered := .Values.broker.external.enabled | ternary "" (include "warren.brokerHost" .) }}
{{- $lost := list }}
{{- range dig "items" list (lookup "apps/v1" "StatefulSet" .Release.Namespace "" | default dict) | default list }}
{{- $notes := dig "metadata" "annotations" dict . | default dict }}
{{- $labels := merge (dict) (dig "spec" "selector" "matchLabels" dict .) (dig "metadata" "labels" dict .) }}
{{- $broker := and (eq (get $labels "app.kubernetes.io/component") "rabbitmq") (eq (default $.Chart.Name (get $labels "app.kubernetes.io/name")) $.Chart.Name) }}
{{- $ours := eq (get $notes "meta.helm.sh/release-name") $.Release.Name }}
{{- if and $broker $ours (ne .metadata.name $rendered) (ne (get $notes "helm.sh/resource-policy") "keep") }}
{{- $lost = append $lost .metadata.name }}
{{- end }}
{{- end }}
{{- join " " $lost }}
{{- end }}

{{/*
What the values say of the broker's volumes and the StatefulSet in the cluster does not. Helm would hear of it from Kubernetes
after it had changed all the rest. A class or annotations that are there besides may be an admission webhook's.
Takes (dict "persistence" .Values.broker.persistence "found" StatefulSet-or-empty).
*/}}
{{- define "warren.volumeChanged" -}}
{{- $claims := dig "spec" "volumeClaimTemplates" list .found | default list }}
{{- if and .found (ne .persistence.enabled (not (empty $claims))) }}
{{- printf "enabled is %t, but the broker that runs here was installed with %t" .persistence.enabled (not .persistence.enabled) }}
{{- else if $claims }}
{{- $claim := first $claims }}
{{- $size := dig "spec" "resources" "requests" "storage" "" $claim }}
{{- $class := dig "spec" "storageClassName" "" $claim }}
{{- $wantedClass := default $class .persistence.storageClass }}
{{- $notes := dig "metadata" "annotations" dict $claim | default dict }}
{{- $wantedNotes := merge (deepCopy (default dict .persistence.annotations)) $notes }}
{{- if ne (include "warren.bytes" $size) (include "warren.bytes" .persistence.size) }}
{{- printf "size is %s, but the broker that runs here was installed with %s" (include "warren.plain" .persistence.size) $size }}
{{- else if ne $class $wantedClass }}
{{- printf "storageClass is %q, but the broker that runs here was installed with %q" $wantedClass $class }}
{{- else if ne (toJson $notes) (toJson $wantedNotes) }}
{{- printf "annotations are %s, but the broker that runs here was installed with %s" (toJson .persistence.annotations) (toJson $notes) }}
{{- end }}
{{- end }}
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

# From 4.1 on this asks Kubernetes nothing: members are known by their numbers in the StatefulSet, and all join the first.
# One that cannot reach it waits, for ever if need be: alone it would begin a second cluster.
cluster_formation.peer_discovery_backend = k8s
cluster_formation.discovery_retry_limit = unlimited
queue_leader_locator = balanced
# Seconds, give or take a quarter, until a node that says nothing counts as lost; the tasks of its clients wait so long,
# and as long as the policies' consumer-disconnected-timeout. RabbitMQ's own 60 are for networks with longer pauses than
# those within one Kubernetes cluster.
net_ticktime = 20
# Each queue lives on three nodes as soon as there are three, whenever it was declared. The same for one node, so that
# going from one to three restarts nothing.
quorum_queue.continuous_membership_reconciliation.enabled = true
quorum_queue.continuous_membership_reconciliation.auto_remove = true
quorum_queue.continuous_membership_reconciliation.target_group_size = 3
# Milliseconds: after a node has come or gone, and besides.
quorum_queue.continuous_membership_reconciliation.trigger_interval = 3000
quorum_queue.continuous_membership_reconciliation.interval = 30000

{{- with dig "limits" "memory" "" (default dict .Values.broker.resources) }}

# The container's limit, which the Erlang machine does not see.
total_memory_available_override_value = {{ include "warren.bytes" . }}
{{- end }}
vm_memory_high_watermark.relative = 0.6
disk_free_limit.absolute = {{ include "warren.plain" .Values.broker.diskFreeLimit }}
raft.wal_max_size_bytes = {{ .Values.broker.walMaxSizeBytes | int64 }}

listeners.tcp.default = 5672
management.tcp.port = 15672
prometheus.tcp.port = 15692
{{- with .Values.broker.extraConfig }}

{{ trimSuffix "\n" . }}
{{- end }}
{{- end }}

{{/*
Before the server starts. Erlang takes a cookie only from a file that its user alone can read, which a mounted Secret is
not; copied at each start, it is always the Secret's, whatever an older release left behind.
Only a node without data looks for a cluster, and it looks at node 0. When that is node 0 itself, whose volume was lost, it
has to ask the others, or it would begin a second cluster beside theirs.
*/}}
{{- define "warren.rabbitmqStart" -}}
umask 077
cat /etc/warren/rabbitmq/erlang-cookie > /var/lib/rabbitmq/.erlang.cookie
umask 022
self=$(hostname -f)
if [ "${self%%.*}" = {{ include "warren.brokerHost" . }}-0 ]; then
  for number in 2 1; do
    peer={{ include "warren.brokerHost" . }}-$number.${self#*.}
    if getent hosts "$peer" >/dev/null && timeout 20 rabbitmq-diagnostics --quiet --node "rabbit@$peer" check_running >/dev/null 2>&1; then
      mkdir -p /tmp/conf.d
      echo "cluster_formation.k8s.seed_node = rabbit@$peer" > /tmp/conf.d/seed.conf
      export RABBITMQ_CONFIG_FILES=/tmp/conf.d
    fi
  done
fi
exec docker-entrypoint.sh rabbitmq-server
{{- end }}

{{/*
Before the server is told to stop: waits until every queue can do without this node, then hands its leaders and clients to the
others. Nobody to wait for are nodes without a name: there is one node only, or the whole release is being removed.
All of it within the grace period, of which the server itself needs the last half minute.
*/}}
{{- define "warren.rabbitmqStop" -}}
self=$(hostname -f)
others() {
  for number in 0 1 2; do
    peer={{ include "warren.brokerHost" . }}-$number.${self#*.}
    if [ "$peer" != "$self" ] && getent hosts "$peer" >/dev/null; then return 0; fi
  done
  return 1
}
end=$(($(date +%s) + {{ max 10 (sub (int .Values.broker.terminationGracePeriodSeconds) 75) }}))
while others && [ "$(date +%s)" -lt "$end" ]; do
  timeout 15 rabbitmq-upgrade --quiet await_online_quorum_plus_one -t 10 && break
done
if others; then
  timeout 30 rabbitmq-upgrade --quiet drain || true
fi
{{- end }}

{{/* Nodes of the cluster on machines of their own, as far as there are some, unless the values say otherwise. */}}
{{- define "warren.brokerAffinity" -}}
podAntiAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- include "warren.selectorLabels" (dict "root" . "component" "rabbitmq") | nindent 12 }}
    - weight: 50
      podAffinityTerm:
        topologyKey: topology.kubernetes.io/zone
        labelSelector:
          matchLabels:
            {{- include "warren.selectorLabels" (dict "root" . "component" "rabbitmq") | nindent 12 }}
{{- end }}

{{- define "warren.enabledPlugins" -}}
[{{ concat (list "rabbitmq_management" "rabbitmq_prometheus" "rabbitmq_peer_discovery_k8s") .Values.broker.extraPlugins | uniq | join "," }}].
{{- end }}
