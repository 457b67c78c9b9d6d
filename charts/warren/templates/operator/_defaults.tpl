{{- define "warren.operatorDefaults" -}}
{{- toYaml (pick .Values.worker "maxLength" "retry" "timeLimit") }}
{{- end }}

{{/* Budgets as the operator reads them: `gpu=8,reports=20`. */}}
{{- define "warren.budgets" -}}
{{- $pairs := list }}
{{- range $name, $workers := . }}
{{- $pairs = append $pairs (printf "%s=%d" $name (int64 $workers)) }}
{{- end }}
{{- join "," $pairs }}
{{- end }}
