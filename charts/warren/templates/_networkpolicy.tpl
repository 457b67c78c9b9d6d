{{- define "warren.networkPolicyHead" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "warren.fullname" .root }}-{{ .component }}
  namespace: {{ .root.Release.Namespace | quote }}
  labels:
    {{- include "warren.labels" . | nindent 4 }}
spec:
  policyTypes: [Ingress]
  podSelector:
    matchLabels:
      {{- include "warren.selectorLabels" . | nindent 6 }}
{{- end }}

{{- define "warren.metricsFrom" -}}
{{- with .Values.networkPolicy.metricsFrom }}
from:
  {{- toYaml . | nindent 2 }}
{{- else }}
from:
  - namespaceSelector: {}
{{- end }}
{{- end }}

{{- define "warren.peer" -}}
- podSelector:
    matchLabels:
      {{- include "warren.selectorLabels" . | nindent 6 }}
{{- end }}
