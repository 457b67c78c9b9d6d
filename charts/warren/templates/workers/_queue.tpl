{{/* A queue's entry over the defaults in `worker`, as JSON. Takes (dict "root" $ "queue" $entry). */}}
{{- define "warren.queueSettings" -}}
{{- mergeOverwrite (omit .root.Values.worker "serviceAccount" | deepCopy) (deepCopy (default dict .queue)) | toJson }}
{{- end }}

{{/* A queue that names a repository of its own has written it out with registry and version; ours follow the release.
Takes (dict "root" $ "entry" $entry "queue" $settings). */}}
{{- define "warren.workerImage" -}}
{{- if dig "image" "repository" "" .entry }}
{{- include "warren.imageName" .entry.image }}
{{- else }}
{{- include "warren.image" (dict "root" .root "image" .queue.image) }}
{{- end }}
{{- end }}
