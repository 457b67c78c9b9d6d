{{/* The queues, as JSON: without the chart's example where that is null. Helm takes it away then by itself, but not in an upgrade
with --reuse-values. */}}
{{- define "warren.queues" -}}
{{- $queues := dict }}
{{- range $key, $entry := .Values.queues }}
{{- if not (kindIs "invalid" $entry) }}
{{- $_ := set $queues $key $entry }}
{{- end }}
{{- end }}
{{- toJson $queues }}
{{- end }}

{{/* A queue's entry over the defaults in `worker`, as JSON. A target of its own is taken whole: the default rule beside it
would be a second rule that nobody asked for. Takes (dict "root" $ "queue" $entry). */}}
{{- define "warren.queueSettings" -}}
{{- $entry := default dict .queue }}
{{- $defaults := omit .root.Values.worker "serviceAccount" }}
{{- if get $entry "target" }}
{{- $defaults = omit $defaults "target" }}
{{- end }}
{{- mergeOverwrite (deepCopy $defaults) (deepCopy $entry) | toJson }}
{{- end }}

{{/* A queue that names a repository of its own has written it out with registry and version; ours follow the release. A tag
of a queue's own is not passed over for the digest of all workers.
Takes (dict "root" $ "entry" $entry "queue" $settings). */}}
{{- define "warren.workerImage" -}}
{{- if dig "image" "repository" "" .entry }}
{{- include "warren.imageName" .entry.image }}
{{- else if and (dig "image" "tag" "" .entry) (not (dig "image" "digest" "" .entry)) }}
{{- include "warren.image" (dict "root" .root "image" (omit .queue.image "digest")) }}
{{- else }}
{{- include "warren.image" (dict "root" .root "image" .queue.image) }}
{{- end }}
{{- end }}

{{/* The queue that `helm test` tries: its task is for the handler `dots`, and needs workers that follow the backlog. Empty where
there is none. */}}
{{- define "warren.testQueue" -}}
{{- $queue := "" }}
{{- range $key, $entry := include "warren.queues" . | fromJson }}
{{- $settings := include "warren.queueSettings" (dict "root" $ "queue" $entry) | fromJson }}
{{- $still := or $settings.suspend $settings.paused (eq (default "" $settings.mode) "Recommend") }}
{{- if and (not $queue) (eq $settings.handler "dots") (gt (int $settings.replicas.max) 0) (not $still) }}
{{- $queue = $key }}
{{- end }}
{{- end }}
{{- $queue }}
{{- end }}
