{{- define "warren.operatorRules" -}}
- apiGroups: [warren.dev]
  resources: [workqueues]
  verbs: [list, watch]
- apiGroups: [warren.dev]
  resources: [workqueues/status]
  verbs: [patch]
- apiGroups: [apps]
  resources: [deployments, replicasets]
  verbs: [list, watch]
- apiGroups: [apps]
  resources: [deployments/scale]
  verbs: [patch]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [list, watch]
# Patched only with the annotation that tells a ReplicaSet which pods are idle.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, patch]
- apiGroups: [""]
  resources: [events]
  verbs: [create]
{{- end }}

{{/* In the operator's own namespace. A name cannot be asked for where an object is made. */}}
{{- define "warren.operatorLeaseRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "warren.fullname" . }}-operator]
  verbs: [get, update]
{{- end }}

{{- define "warren.operatorSubject" -}}
subjects:
  - kind: ServiceAccount
    name: {{ include "warren.serviceAccountName" (dict "root" . "part" "operator") | quote }}
    namespace: {{ .Release.Namespace | quote }}
{{- end }}
