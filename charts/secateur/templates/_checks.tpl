{{/* What the schema cannot say, with a way to repair; included once. */}}
{{- define "secateur.check" -}}
{{- include "secateur.checkMlflow" . }}
{{- range $key := list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component" }}
{{- if or (hasKey $.Values.pod.labels $key) (hasKey $.Values.commonLabels $key) }}
{{- fail (printf "the label %s is the chart's own: remove it from pod.labels and commonLabels, or change nameOverride" $key) }}
{{- end }}
{{- end }}
{{- end }}
