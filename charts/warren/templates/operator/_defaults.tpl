{{- define "warren.operatorDefaults" -}}
{{- toYaml (pick .Values.worker "maxLength" "retry" "timeLimit") }}
{{- end }}

{{/* Another release whose operator runs in this namespace, and looks after its WorkQueues as well as ours would; empty where there
is none. */}}
{{- define "warren.otherOperator" -}}
{{- $other := "" }}
{{- $watched := default (list .Release.Namespace) .Values.operator.watchNamespaces }}
{{- if and (gt (int .Values.operator.replicas) 0) (or (has "*" $watched) (has .Release.Namespace $watched)) }}
{{- range dig "items" list (lookup "apps/v1" "Deployment" .Release.Namespace "" | default dict) | default list }}
{{- $labels := dig "spec" "selector" "matchLabels" dict . | default dict }}
{{- $operator := and (eq (default "" (get $labels "app.kubernetes.io/name")) $.Chart.Name) (eq (default "" (get $labels "app.kubernetes.io/component")) "operator") }}
{{- $release := default "" (get $labels "app.kubernetes.io/instance") }}
{{- if and $operator $release (ne $release $.Release.Name) (gt (dig "spec" "replicas" 0 . | int) 0) }}
{{- $other = $release }}
{{- end }}
{{- end }}
{{- end }}
{{- $other }}
{{- end }}

{{/* Budgets as the operator reads them: `gpu=8,reports=20`. */}}
{{- define "warren.budgets" -}}
{{- $pairs := list }}
{{- range $name, $workers := . }}
{{- $pairs = append $pairs (printf "%s=%d" $name (int64 $workers)) }}
{{- end }}
{{- join "," $pairs }}
{{- end }}
