{{/* Milliseconds in a duration such as 1h30m. The schema has checked how it is written. */}}
{{- define "warren.milliseconds" -}}
{{- $units := dict "ms" 1.0 "s" 1000.0 "m" 60000.0 "h" 3600000.0 }}
{{- $sum := 0.0 }}
{{- range regexFindAll "[0-9.]+(ms|s|m|h)" . -1 }}
{{- $sum = addf $sum (mulf (regexFind "[0-9.]+" . | float64) (get $units (regexFind "[a-z]+" .))) }}
{{- end }}
{{- round $sum 0 | int64 }}
{{- end }}

{{/* Seconds in a duration, rounded up. */}}
{{- define "warren.seconds" -}}
{{- divf (include "warren.milliseconds" . | float64) 1000.0 | ceil | int64 }}
{{- end }}

{{/* A value as it was written. Numbers out of a values file are floating-point ones, which templates print as 1e+06. */}}
{{- define "warren.plain" -}}
{{- kindIs "float64" . | ternary (toJson .) (toString .) }}
{{- end }}

{{/* Bytes in a quantity such as 512Mi; empty where it is not written in bytes. */}}
{{- define "warren.bytes" -}}
{{- $units := dict "" 1 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 }}
{{- $text := kindIs "string" . | ternary . (int64 . | toString) }}
{{- if regexMatch "^[0-9]+(\\.[0-9]+)?([kMGT]|[KMGT]i)?$" $text }}
{{- mulf (regexFind "^[0-9.]+" $text | float64) (get $units (regexFind "[A-Za-z]*$" $text) | float64) | floor | int64 }}
{{- end }}
{{- end }}

{{/* What an address has behind its host and a colon; empty where it names no port. */}}
{{- define "warren.port" -}}
{{- regexFind ":[^]:]*$" (regexFind "^https?://[^/?#]*" . | trimPrefix "http:" | trimPrefix "https:") | trimPrefix ":" }}
{{- end }}

{{/* "true" where the first of two versions is newer. One that is none is older than all. `semverCompare` will not do: a rule
such as >1.0.0 passes over whatever precedes a release. */}}
{{- define "warren.newer" -}}
{{- $word := "(0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)" }}
{{- $semantic := printf "^(0|[1-9][0-9]*)[.](0|[1-9][0-9]*)[.](0|[1-9][0-9]*)(-%s([.]%s)*)?([+][0-9A-Za-z-]+([.][0-9A-Za-z-]+)*)?$" $word $word }}
{{- if regexMatch $semantic (first .) }}
{{- if gt ((semver (first .)).Compare (semver (last .))) 0 }}true{{ end }}
{{- end }}
{{- end }}
