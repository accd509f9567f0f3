{{/* What the schema cannot say, with a way to repair; included once. */}}
{{- define "secateur.check" -}}
{{- include "secateur.checkMlflow" . }}
{{- range $key := list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component" }}
{{- if or (hasKey $.Values.pod.labels $key) (hasKey $.Values.commonLabels $key) }}
{{- fail (printf "the label %s is the chart's own: remove it from pod.labels and commonLabels, or change nameOverride" $key) }}
{{- end }}
{{- end }}
{{- if and (ne .Values.schedule.state "unmanaged") (not .Values.schedule.parameters) }}
{{- fail "schedule.parameters is empty: name a preset (preset: digits), or write task and budgets" }}
{{- end }}
{{- if and (ne .Values.schedule.state "unmanaged") (not .Values.schedule.version) (not (has (trimPrefix "secateur-" .Values.schedule.pipeline) .Values.pipeline.upload)) }}
{{- fail (printf "schedule.version is empty, but this chart uploads no pipeline %s: add it to pipeline.upload, or write a version (or latest)" .Values.schedule.pipeline) }}
{{- end }}
{{- end }}
