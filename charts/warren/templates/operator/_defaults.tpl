{{- define "warren.operatorDefaults" -}}
{{- toYaml (pick .Values.worker "maxLength" "retry" "timeLimit") }}
{{- end }}
