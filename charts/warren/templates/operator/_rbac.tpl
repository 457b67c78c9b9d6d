{{- define "warren.operatorRules" -}}
- apiGroups: [warren.dev]
  resources: [workqueues]
  verbs: [get, list, watch]
- apiGroups: [warren.dev]
  resources: [workqueues/status]
  verbs: [patch]
- apiGroups: [apps]
  resources: [deployments, replicasets]
  verbs: [get, list, watch]
- apiGroups: [apps]
  resources: [deployments/scale]
  verbs: [get, patch]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch]
# Patched only with the annotation that tells a ReplicaSet which pods are idle.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch]
- apiGroups: ["", events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}

{{- define "warren.operatorSubject" -}}
subjects:
  - kind: ServiceAccount
    name: {{ include "warren.serviceAccountName" (dict "root" . "part" "operator") }}
    namespace: {{ .Release.Namespace }}
{{- end }}
