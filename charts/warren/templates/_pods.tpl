{{/* What every pod of a part says about itself: security, placement, pull secrets.
Takes (dict "root" $ "knobs" .Values.producer "user" 10001). */}}
{{- define "warren.podSpec" -}}
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $context := dict "runAsNonRoot" true "runAsUser" .user "runAsGroup" .user "fsGroup" .user "fsGroupChangePolicy" "OnRootMismatch"
  "seccompProfile" (dict "type" "RuntimeDefault") }}
securityContext:
  {{- toYaml (mergeOverwrite $context (deepCopy (default dict .knobs.podSecurityContext))) | nindent 2 }}
{{- with .knobs.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- range $knob := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" }}
{{- with index $.knobs $knob }}
{{ $knob }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{/* Takes the same. */}}
{{- define "warren.containerSecurity" -}}
{{- $context := dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "capabilities" (dict "drop" (list "ALL")) }}
{{- toYaml (mergeOverwrite $context (deepCopy (default dict .securityContext))) }}
{{- end }}

{{/* Requests and limits as they are written, without those that are null: so a default is taken away, and Kubernetes would
read it as 0. Takes resources, or nothing. */}}
{{- define "warren.resources" -}}
{{- $resources := deepCopy (default dict .) }}
{{- range $kind := list "requests" "limits" }}
{{- $amounts := get $resources $kind | default dict }}
{{- range $name, $amount := $amounts }}
{{- if kindIs "invalid" $amount }}
{{- $_ := unset $amounts $name }}
{{- end }}
{{- end }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{/* Environment that all of our programs read. */}}
{{- define "warren.commonEnv" -}}
- name: WARREN_BROKER_DIR
  value: /etc/warren/broker
- name: WARREN_LOG_FORMAT
  value: {{ .Values.log.format }}
- name: WARREN_LOG_LEVEL
  value: {{ .Values.log.level }}
{{- end }}

{{/* Takes (dict "root" $ "component" "producer" "knobs" .Values.producer "queue" ""). */}}
{{- define "warren.podMetadata" -}}
{{- $labels := dict "app.kubernetes.io/part-of" "warren" }}
labels:
  {{- toYaml (mergeOverwrite $labels (default dict .knobs.podLabels) (include "warren.selectorLabels" . | fromYaml)) | nindent 2 }}
{{- end }}
