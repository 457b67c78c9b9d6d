{{/* What the schema cannot say. Each mistake ends the rendering with a sentence that names the value and the remedy. */}}
{{- define "warren.checks" -}}
{{- range $part := list "worker" "producer" "operator" "broker" }}
{{- if not (index $.Values $part).image.repository }}
{{- fail (printf "%s.image.repository is empty: leave it out for the chart's own, or write the image's name without its tag" $part) }}
{{- end }}
{{- end }}
{{- $fullname := include "warren.fullname" . }}
{{- if and .Release.IsInstall (not (regexMatch "^[a-z][a-z0-9-]*$" $fullname)) }}
{{- fail (printf "the names of this release would begin with %s, but Kubernetes takes only Services whose name begins with a letter and has no dot: set fullnameOverride to one, such as warren" $fullname) }}
{{- end }}
{{- $brokers := int .Values.broker.replicas }}
{{- if not (has $brokers (list 1 3)) }}
{{- fail (printf "broker.replicas is %d: set it to 1, or to 3 to outlive the loss of any one node; other sizes are for a cluster of your own, see broker.external" $brokers) }}
{{- end }}
{{- if not .Values.broker.external.enabled }}
{{- with .Values.broker.image }}
{{- if not (or .tag .digest) }}
{{- fail (printf "broker.image names the repository %s but no version: set broker.image.tag or .digest to a RabbitMQ of 4.3.1 or later, such as 4.3-management" .repository) }}
{{- end }}
{{- end }}
{{- $found := lookup "apps/v1" "StatefulSet" .Release.Namespace (include "warren.brokerHost" .) | default dict }}
{{- $running := dig "spec" "replicas" 0 $found | int }}
{{- if gt $running $brokers }}
{{- fail (printf "broker.replicas is %d, but RabbitMQ runs on %d nodes here: without the majority of its nodes every queue would stand still and its tasks with it. Set broker.replicas to %d; to become smaller, install a release of its own in another namespace and let the workers here finish first" $brokers $running $running) }}
{{- end }}
{{- with include "warren.volumeChanged" (dict "persistence" .Values.broker.persistence "found" $found) }}
{{- fail (printf "broker.persistence: %s, and Kubernetes takes no other volumes for a StatefulSet that is there. Set it to what it was; or see \"Another volume\" in the chart's README" .) }}
{{- end }}
{{- $second := printf "data-%s-1" (include "warren.brokerHost" .) }}
{{- if and (eq $brokers 1) (lookup "v1" "PersistentVolumeClaim" .Release.Namespace $second) }}
{{- fail (printf "broker.replicas is 1, but there is the volume %s of a second RabbitMQ node: an earlier release ran on three, and one of them alone does not start. Set broker.replicas to 3; if nobody needs the tasks any more, delete the volumes data-%s-0, -1 and -2 first" $second (include "warren.brokerHost" .)) }}
{{- end }}
{{- end }}
{{- if .Values.broker.external.enabled }}
{{- range $part := list "producer" "worker" "operator" }}
{{- if not (include "warren.secretName" (dict "root" $ "part" $part)) }}
{{- fail (printf "broker.external.enabled needs to know how to reach that broker: set broker.external.existingSecret, or credentials.existingSecrets.%s" $part) }}
{{- end }}
{{- end }}
{{- if .Values.broker.tutorialUser.enabled }}
{{- fail "broker.tutorialUser.enabled is for the chart's own broker: create the user in your broker yourself, or set broker.external.enabled to false" }}
{{- end }}
{{- end }}
{{- if not .Values.broker.external.enabled }}
{{- $existing := .Values.credentials.existingSecrets.rabbitmq }}
{{- if and $existing .Values.broker.tutorialUser.enabled }}
{{- fail (printf "broker.tutorialUser.enabled has no say where credentials.existingSecrets.rabbitmq names a Secret of yours: write the user guest into definitions.json in %s yourself, or leave credentials.existingSecrets.rabbitmq out" $existing) }}
{{- end }}
{{- with include "warren.usersUnknown" . }}
{{- fail (printf "credentials.existingSecrets.rabbitmq: the broker's users are those in definitions.json in %s, but the chart would make new ones for %s, who could not log in. Set credentials.existingSecrets.%s too, to Secrets with users that are in definitions.json" $existing (splitList " " . | join ", ") (splitList " " . | join ", .")) }}
{{- end }}
{{- end }}
{{- if .Release.IsUpgrade }}
{{- with include "warren.brokerLost" . }}
{{- $loss := printf "this upgrade would remove the broker %s, which this release runs, and leave its tasks in volumes that nobody reads" . }}
{{- $way := printf "let the workers here finish first, then run: kubectl -n %s delete statefulset %s, and this upgrade again; see \"To another broker\" in the chart's README" $.Release.Namespace . }}
{{- if $.Values.broker.external.enabled }}
{{- fail (printf "broker.external.enabled: %s. Set broker.external.enabled to false; or, to go over to the other broker, %s" $loss $way) }}
{{- end }}
{{- fail (printf "fullnameOverride, nameOverride: names would begin with %s here, so %s; %s would start without any. Set both to what they were, so that names begin with %s; or, to start afresh, %s" $fullname $loss (include "warren.brokerHost" $) (trimSuffix "-rabbitmq" .) $way) }}
{{- end }}
{{- with include "warren.secretsLost" . }}
{{- fail (printf "credentials: this upgrade would delete Secrets that this release has made and still needs, with the passwords, tokens or cookie in them: %s. Leave credentials as they were; or, to look after these Secrets yourself from now on, first run: kubectl -n %s annotate secret %s helm.sh/resource-policy=keep" . $.Release.Namespace .) }}
{{- end }}
{{- end }}
{{- with dig "limits" "memory" "" (default dict .Values.broker.resources) }}
{{- if not (include "warren.bytes" .) }}
{{- fail (printf "broker.resources.limits.memory is %q: write a number of bytes or one with k, M, G, T, Ki, Mi, Gi or Ti, such as 1Gi, because RabbitMQ has to be told it in bytes" (toString .)) }}
{{- end }}
{{- end }}
{{- if and .Values.producer.ingress.enabled (not .Values.producer.ingress.host) }}
{{- fail "producer.ingress.enabled needs producer.ingress.host: set it to the name under which the producer is to be reached" }}
{{- end }}
{{- $timeout := include "warren.milliseconds" .Values.producer.submitTimeout | int64 }}
{{- if or (lt $timeout 1) (gt $timeout 3600000) }}
{{- fail (printf "producer.submitTimeout is %s: write how long a submit may wait for the broker, from 1ms to 1h, such as 10s" .Values.producer.submitTimeout) }}
{{- end }}
{{- include "warren.refuseZero" (list "worker.timeLimit" .Values.worker.timeLimit "how long one task may take, such as 25m") }}
{{- /* The operator starts with these three, also where every queue has others. */}}
{{- include "warren.refuseLong" (list "worker.timeLimit" .Values.worker.timeLimit) }}
{{- include "warren.refuseDelays" (list "worker." .Values.worker.retry) }}
{{- $watched := .Values.operator.watchNamespaces }}
{{- if .Release.IsInstall }}
{{- with include "warren.otherOperator" . }}
{{- fail (printf "the release %s has its operator in namespace %s already, and each of the two would scale the other one's workers by the tasks in its own broker: install this one into a namespace of its own" . $.Release.Namespace) }}
{{- end }}
{{- end }}
{{- $queues := include "warren.queues" . | fromJson }}
{{- if and $queues $watched (not (has "*" $watched)) (not (has .Release.Namespace $watched)) }}
{{- fail (printf "operator.watchNamespaces is [%s] and leaves out %s, where this release has the queues %s, which nobody would scale: add %s, or take the queues out, the example with queues.task_queue=null" (join ", " $watched) .Release.Namespace (keys $queues | sortAlpha | join ", ") .Release.Namespace) }}
{{- end }}
{{- range $name := keys (default dict .Values.operator.budgets) | sortAlpha }}
{{- if not (regexMatch "^[A-Za-z0-9._-]{1,63}$" $name) }}
{{- fail (printf "operator.budgets.%s is no name for a budget: write 1 to 63 of a-z, A-Z, 0-9, '.', '_' and '-'" $name) }}
{{- end }}
{{- end }}
{{- $accounts := dict }}
{{- range $part := list "worker" "producer" "operator" "broker" }}
{{- if and (index $.Values $part).serviceAccount.create (not (and (eq $part "broker") $.Values.broker.external.enabled)) }}
{{- $account := include "warren.serviceAccountName" (dict "root" $ "part" $part) }}
{{- if hasKey $accounts $account }}
{{- fail (printf "%s.serviceAccount and %s.serviceAccount would both make the ServiceAccount %s: set %s.serviceAccount.create to false, so that it uses the other one's, or give it another name" (get $accounts $account) $part $account $part) }}
{{- end }}
{{- $_ := set $accounts $account $part }}
{{- end }}
{{- end }}
{{- $own := list }}
{{- range $name := list "BROKER_DIR" "LOG_FORMAT" "LOG_LEVEL" "QUEUE" "HANDLER" "EXEC_COMMAND" "HTTP_URL" "CONCURRENCY" "EXECUTOR" "TIME_LIMIT" "MAX_ATTEMPTS" "MAX_BODY" "MAX_TASKS_PER_CHILD" "MAX_MEMORY_PER_CHILD" "WORKER_NAME" "HEALTH_PORT" }}
{{- $own = append $own (print "WARREN_" $name) }}
{{- end }}
{{- $seen := dict }}
{{- range $key, $entry := .Values.queues }}
{{- if and (kindIs "invalid" $entry) (ne $key "task_queue") }}
{{- fail (printf "queues.%s has nothing below it: write {} for a queue that takes all from worker, or leave it out" $key) }}
{{- end }}
{{- end }}
{{- range $key, $entry := $queues }}
{{- if not (regexMatch "^[A-Za-z0-9][A-Za-z0-9._:-]{0,199}$" $key) }}
{{- fail (printf "queues.%s is no name for a queue: write 1 to 200 of a-z, A-Z, 0-9, '.', '_', ':' and '-', beginning with a letter or digit" $key) }}
{{- end }}
{{- if or (hasPrefix "amq." $key) (hasPrefix "warren." $key) (hasSuffix ".dead" $key) }}
{{- fail (printf "queues.%s: names that start with amq. or warren. or end in .dead are reserved; choose another one" $key) }}
{{- end }}
{{- $name := include "warren.queueName" (dict "key" $key "queue" $entry) }}
{{- if gt (len $name) 63 }}
{{- fail (printf "queues.%s: its name in Kubernetes, %s, is longer than 63 characters; give it a shorter one with queues.%s.name" $key $name $key) }}
{{- end }}
{{- if hasKey $seen $name }}
{{- fail (printf "queues.%s and queues.%s would both be called %s in Kubernetes; give one of them another name there, such as queues.%s.name=%s-2" (get $seen $name) $key $name $key (trunc 61 $name)) }}
{{- end }}
{{- $_ := set $seen $name $key }}
{{- $settings := include "warren.queueSettings" (dict "root" $ "queue" $entry) | fromJson }}
{{- if and (eq $settings.handler "exec") (not $settings.exec.command) }}
{{- fail (printf "queues.%s: handler exec needs queues.%s.exec.command: write the program and its arguments as a list" $key $key) }}
{{- end }}
{{- if and (eq $settings.handler "exec") (not (first $settings.exec.command)) }}
{{- fail (printf "queues.%s.exec.command begins with an empty text: write the program first, then its arguments, such as [convert, \"-\", \"png:-\"]" $key) }}
{{- end }}
{{- if and (eq $settings.handler "exec") (ne $settings.executor "process") }}
{{- fail (printf "queues.%s: executor thread cannot end a program; set queues.%s.executor to process" $key $key) }}
{{- end }}
{{- if and (eq $settings.handler "http") (not $settings.http.url) }}
{{- fail (printf "queues.%s: handler http needs queues.%s.http.url: write where tasks are to be POSTed" $key $key) }}
{{- end }}
{{- if and $settings.sidecars (semverCompare "<1.29.0-0" $.Capabilities.KubeVersion.Version) }}
{{- fail (printf "queues.%s: sidecars need Kubernetes 1.29, and this is %s, where the worker would wait for them to end: leave them out, and have the service run elsewhere" $key $.Capabilities.KubeVersion.Version) }}
{{- end }}
{{- $port := include "warren.port" (default "" $settings.http.url) }}
{{- if and $port (or (not (regexMatch "^[0-9]{1,5}$" $port)) (lt (atoi $port) 1) (gt (atoi $port) 65535)) }}
{{- fail (printf "queues.%s.http.url has the port %s: write one from 1 to 65535, such as http://localhost:9000/tasks" $key $port) }}
{{- end }}
{{- range $check := list
  (list "timeLimit" $settings.timeLimit "how long one task may take, such as 25m")
  (list "messageTTL" (get $settings "messageTTL") "how long a task may wait, such as 24h, or leave it out if it may wait for ever")
  (list "target.maxWait" (dig "target" "maxWait" "" $settings) "how long a task may wait, such as 30s") }}
{{- $named := prepend (rest $check) (printf "queues.%s: %s" $key (first $check)) }}
{{- include "warren.refuseZero" $named }}
{{- include "warren.refuseLong" $named }}
{{- end }}
{{- include "warren.refuseDelays" (list (printf "queues.%s: " $key) $settings.retry) }}
{{- include "warren.refuseLong" (list (printf "queues.%s: behavior.scaleDown.stabilization" $key) (dig "behavior" "scaleDown" "stabilization" "" $settings)) }}
{{- $given := keys (default dict $settings.env) }}
{{- range $settings.extraEnv }}
{{- $given = append $given (default "" .name) }}
{{- end }}
{{- range $name := sortAlpha $given }}
{{- if has $name $own }}
{{- fail (printf "queues.%s: its env or extraEnv has %s, which the chart sets by itself: leave it out, and set the value of the queue, the worker or the log that it stands for" $key $name) }}
{{- end }}
{{- end }}
{{- range $name, $value := $settings.env }}
{{- if and (kindIs "float64" $value) (or (gt $value 9007199254740991.0) (lt $value -9007199254740991.0)) }}
{{- fail (printf "queues.%s: its env has the number %s with more digits than Helm keeps, so it might be another one by now: write it in quotes" $key $name) }}
{{- end }}
{{- end }}
{{- if gt (int $settings.replicas.min) (int $settings.replicas.max) }}
{{- fail (printf "queues.%s: replicas.min is %d and replicas.max is %d; min must not be above max" $key (int $settings.replicas.min) (int $settings.replicas.max)) }}
{{- end }}
{{- if and (dig "image" "repository" "" $entry) (not (dig "image" "tag" "" $entry)) (not (dig "image" "digest" "" $entry)) }}
{{- fail (printf "queues.%s.image names the repository %s but no version: set queues.%s.image.tag or .digest" $key $entry.image.repository $key) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Takes (list "name of a duration" value-or-empty "what to write"). */}}
{{- define "warren.refuseZero" -}}
{{- $name := index . 0 }}
{{- $remedy := index . 2 }}
{{- with index . 1 }}
{{- if lt (include "warren.milliseconds" . | int64) 1 }}
{{- fail (printf "%s is %s: write %s" $name . $remedy) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The longest duration that the operator takes; one that no number here holds has become negative. Takes
(list "name of a duration" value-or-empty). */}}
{{- define "warren.refuseLong" -}}
{{- $name := first . }}
{{- with index . 1 }}
{{- $milliseconds := include "warren.milliseconds" . | int64 }}
{{- if or (lt $milliseconds 0) (gt $milliseconds 2592000000) }}
{{- fail (printf "%s is %s: write at most 720h" $name .) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Takes (list "whose: " retry). */}}
{{- define "warren.refuseDelays" -}}
{{- $whose := first . }}
{{- $retry := last . }}
{{- range $name := list "minDelay" "maxDelay" }}
{{- include "warren.refuseLong" (list (printf "%sretry.%s" $whose $name) (get $retry $name)) }}
{{- end }}
{{- if gt (include "warren.milliseconds" $retry.minDelay | int64) (include "warren.milliseconds" $retry.maxDelay | int64) }}
{{- fail (printf "%sretry.minDelay is %s and retry.maxDelay is %s; min must not be above max" $whose $retry.minDelay $retry.maxDelay) }}
{{- end }}
{{- end }}
