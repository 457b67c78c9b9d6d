{{/*
Credentials are made once and kept: what a Secret in the cluster holds already is taken from there. That needs a look
into the cluster. Where there is none (helm template, Argo CD), `create: auto` leaves the Secrets out: made anew at each
rendering, they would lock every part out.
*/}}

{{/* "true" where Helm can look into the cluster. The release's own namespace will not do: --create-namespace makes it
only after rendering. */}}
{{- define "warren.clusterVisible" -}}
{{- if lookup "v1" "Namespace" "" "kube-system" }}true{{ end }}
{{- end }}

{{- define "warren.credentialsMade" -}}
{{- $create := .Values.credentials.create }}
{{- if or (eq $create "always") (and (eq $create "auto") (eq (include "warren.clusterVisible" .) "true")) }}true{{ end }}
{{- end }}

{{/* Name of a Secret. Takes (dict "root" $ "part" "tokens" | "producer" | "worker" | "operator" | "rabbitmq"). */}}
{{- define "warren.secretName" -}}
{{- $existing := get .root.Values.credentials.existingSecrets .part }}
{{- $external := .root.Values.broker.external }}
{{- $fullname := include "warren.fullname" .root }}
{{- if $existing }}{{ $existing }}
{{- else if has .part (list "tokens" "rabbitmq") }}{{ $fullname }}-{{ .part }}
{{- else if $external.enabled }}{{ $external.existingSecret }}
{{- else }}{{ $fullname }}-broker-{{ .part }}
{{- end }}
{{- end }}

{{/* "true" where the chart makes this Secret. Takes the same. */}}
{{- define "warren.secretMade" -}}
{{- $foreign := and .root.Values.broker.external.enabled (ne .part "tokens") }}
{{- if and (not (get .root.Values.credentials.existingSecrets .part)) (not $foreign) (include "warren.credentialsMade" .root) }}true{{ end }}
{{- end }}

{{/*
Helm deletes what the release made and this rendering leaves out. Names of Secrets that the parts need all the same, with
a space between them. What is annotated so is kept, by Helm as well.
*/}}
{{- define "warren.secretsLost" -}}
{{- $fullname := include "warren.fullname" . }}
{{- $own := list (printf "%s-tokens" $fullname) (printf "%s-rabbitmq" $fullname) }}
{{- range $part := list "operator" "producer" "worker" }}
{{- $own = append $own (printf "%s-broker-%s" $fullname $part) }}
{{- end }}
{{- $made := list }}
{{- $needed := list }}
{{- range $part := list "tokens" "producer" "worker" "operator" "rabbitmq" }}
{{- $where := dict "root" $ "part" $part }}
{{- $name := include "warren.secretName" $where }}
{{- if include "warren.secretMade" $where }}
{{- $made = append $made $name }}
{{- else if not (and (eq $part "rabbitmq") $.Values.broker.external.enabled) }}
{{- $needed = append $needed $name }}
{{- end }}
{{- end }}
{{- $lost := list }}
{{- range $name := $needed | uniq | sortAlpha }}
{{- if and (has $name $own) (not (has $name $made)) }}
{{- $notes := dig "metadata" "annotations" dict (lookup "v1" "Secret" $.Release.Namespace $name | default dict) }}
{{- $ours := and (eq (get $notes "meta.helm.sh/release-name") $.Release.Name) (eq (get $notes "meta.helm.sh/release-namespace") $.Release.Namespace) }}
{{- if and $ours (ne (get $notes "helm.sh/resource-policy") "keep") }}
{{- $lost = append $lost $name }}
{{- end }}
{{- end }}
{{- end }}
{{- join " " $lost }}
{{- end }}

{{/* RabbitMQ takes the last of several users of one name, with that one's password and rights. Takes part → {username, …}. */}}
{{- define "warren.usersDiffer" -}}
{{- $seen := dict }}
{{- range $part, $user := . }}
{{- if eq $user.username "guest" }}
{{- fail (printf "credentials.existingSecrets.%s: its user is guest, who may log in from the broker's own host only: write another username into that Secret" $part) }}
{{- end }}
{{- if hasKey $seen $user.username }}
{{- fail (printf "credentials.existingSecrets: %s and %s would both be the broker's user %s, but each has rights of its own there: name Secrets with different usernames in credentials.existingSecrets.%s and .%s, or leave these out, so that the chart makes the users" (get $seen $user.username) $part $user.username (get $seen $user.username) $part) }}
{{- end }}
{{- $_ := set $seen $user.username $part }}
{{- end }}
{{- end }}

{{/*
Parts for which the chart would make a new user, with a space between them, although the broker's users come from a Secret
that it does not make: nobody would know them there.
*/}}
{{- define "warren.usersUnknown" -}}
{{- $unknown := list }}
{{- if and .Values.credentials.existingSecrets.rabbitmq (not .Values.broker.external.enabled) }}
{{- range $part := list "producer" "worker" "operator" }}
{{- $where := dict "root" $ "part" $part }}
{{- $old := dig "data" dict (lookup "v1" "Secret" $.Release.Namespace (include "warren.secretName" $where) | default dict) }}
{{- if and (include "warren.secretMade" $where) (not (hasKey $old "password")) }}
{{- $unknown = append $unknown $part }}
{{- end }}
{{- end }}
{{- end }}
{{- join " " $unknown }}
{{- end }}

{{/*
The contents of all Secrets that the chart makes, as JSON: part → key → text. Random values must be the same wherever
this is included, so the first call leaves its answer in .Values, which all templates of one rendering share.
*/}}
{{- define "warren.credentials" -}}
{{- if not (hasKey .Values "madeCredentials") }}
{{- $made := dict }}
{{- $users := dict }}
{{- range $part := list "producer" "worker" "operator" }}
{{- $where := dict "root" $ "part" $part }}
{{- $name := include "warren.secretName" $where }}
{{- $old := dig "data" dict (lookup "v1" "Secret" $.Release.Namespace $name | default dict) }}
{{- if include "warren.secretMade" $where }}
{{- $user := dict "username" (printf "warren-%s" $part) "password" (hasKey $old "password" | ternary (get $old "password" | b64dec) (randAlphaNum 32)) }}
{{- $_ := set $users $part $user }}
{{- $broker := dict "host" (include "warren.brokerHost" $) "port" "5672" "vhost" "/" "tls" "false" }}
{{- if eq $part "operator" }}
{{- $_ := set $broker "management-url" (printf "http://%s:15672" (include "warren.brokerHost" $)) }}
{{- end }}
{{- $_ := set $made $part (merge $broker $user) }}
{{- else if and (hasKey $old "username") (hasKey $old "password") }}
{{- /* As the parts read them: a Secret made from files often ends in a line feed. */}}
{{- $_ := set $users $part (dict "username" (get $old "username" | b64dec | trim) "password" (get $old "password" | b64dec | trim)) }}
{{- else if include "warren.secretMade" (dict "root" $ "part" "rabbitmq") }}
{{- fail (printf "credentials.existingSecrets.%s names the Secret %q, which is not in namespace %s or lacks one of the keys `username` and `password`: create it first, because the broker's users are made from it" $part $name $.Release.Namespace) }}
{{- end }}
{{- end }}
{{- if include "warren.secretMade" (dict "root" . "part" "rabbitmq") }}
{{- include "warren.usersDiffer" $users }}
{{- end }}
{{- $where := dict "root" . "part" "tokens" }}
{{- if include "warren.secretMade" $where }}
{{- $old := dig "data" dict (lookup "v1" "Secret" .Release.Namespace (include "warren.secretName" $where) | default dict) }}
{{- $tokens := dict }}
{{- range $scope := list "submit" "read" "admin" }}
{{- $_ := set $tokens $scope (hasKey $old $scope | ternary (get $old $scope | b64dec) (randAlphaNum 40)) }}
{{- end }}
{{- $_ := set $made "tokens" $tokens }}
{{- end }}
{{- $where := dict "root" . "part" "rabbitmq" }}
{{- if include "warren.secretMade" $where }}
{{- $old := dig "data" dict (lookup "v1" "Secret" .Release.Namespace (include "warren.secretName" $where) | default dict) }}
{{- $cookie := hasKey $old "erlang-cookie" | ternary (get $old "erlang-cookie" | b64dec) (randAlphaNum 40) }}
{{- $definitions := include "warren.definitions" (dict "users" $users "tutorialUser" .Values.broker.tutorialUser.enabled) }}
{{- $_ := set $made "rabbitmq" (dict "erlang-cookie" $cookie "definitions.json" $definitions) }}
{{- end }}
{{- $_ := set .Values "madeCredentials" $made }}
{{- end }}
{{- toJson .Values.madeCredentials }}
{{- end }}
