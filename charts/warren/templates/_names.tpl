{{/* Beginning of all names. 40 characters leave room for what is added: StatefulSet names end at 52. */}}
{{- define "warren.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Labels by which pods are selected, and the only ones of ours on pods: what changes with a release would roll them.
Takes (dict "root" $ "component" "producer"). */}}
{{- define "warren.selectorLabels" -}}
app.kubernetes.io/name: {{ .root.Chart.Name | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- with .queue }}
warren.dev/queue: {{ . | quote }}
{{- end }}
{{- end }}

{{/* Each label once, also where `commonLabels` has one of ours: many a reader of YAML refuses a key that is there twice. */}}
{{- define "warren.labels" -}}
{{- $labels := dict
  "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
  "app.kubernetes.io/version" .root.Chart.AppVersion
  "app.kubernetes.io/managed-by" .root.Release.Service
  "app.kubernetes.io/part-of" "warren" }}
{{- toYaml (mergeOverwrite $labels (default dict .root.Values.commonLabels) (include "warren.selectorLabels" . | fromYaml)) }}
{{- end }}

{{/* A queue's name as a DNS label. Takes (dict "key" "task_queue" "queue" $entry). */}}
{{- define "warren.queueName" -}}
{{- default (regexReplaceAll "[._:]" (lower .key) "-" | trimAll "-") (dig "name" "" .queue) -}}
{{- end }}

{{/* Image of a part. Takes (dict "root" $ "image" .Values.producer.image). */}}
{{- define "warren.image" -}}
{{- $registry := default .root.Values.image.registry .image.registry }}
{{- $tag := default (default .root.Chart.AppVersion .root.Values.image.tag) .image.tag }}
{{- include "warren.imageName" (dict "registry" $registry "repository" .image.repository "tag" $tag "digest" .image.digest) }}
{{- end }}

{{- define "warren.imageName" -}}
{{- with .registry }}{{ trimSuffix "/" . }}/{{ end }}{{ .repository }}
{{- if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end }}

{{/* Takes (dict "root" $ "part" "producer"). */}}
{{- define "warren.serviceAccountName" -}}
{{- $account := (index .root.Values .part).serviceAccount }}
{{- $own := printf "%s-%s" (include "warren.fullname" .root) (eq .part "broker" | ternary "rabbitmq" .part) }}
{{- $account.create | ternary (default $own $account.name) (default "default" $account.name) }}
{{- end }}
