{{/* Name of the chart. */}}
{{- define "secateur.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{/* Beginning of the names of what belongs to this release. The limit leaves room for the endings. */}}
{{- define "secateur.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "secateur.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "secateur.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Labels that find the pods of this release. */}}
{{- define "secateur.selectorLabels" -}}
app.kubernetes.io/name: {{ include "secateur.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels of every object. */}}
{{- define "secateur.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "secateur.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: secateur
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Full name of an image: dict "image" (values) "default" (tag when neither tag nor digest is given). */}}
{{- define "secateur.imageOf" -}}
{{- $tag := .image.tag }}
{{- if not (or $tag .image.digest) }}{{ $tag = .default }}{{ end }}
{{- .image.repository }}{{ with $tag }}:{{ . }}{{ end }}{{ with .image.digest }}@{{ . }}{{ end }}
{{- end }}

{{/* The image of Secateur. */}}
{{- define "secateur.image" -}}
{{- include "secateur.imageOf" (dict "image" .Values.image "default" .Chart.AppVersion) }}
{{- end }}

{{- define "secateur.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "secateur.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.create is false: name the account that exists in serviceAccount.name" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* Namespace in which Kubeflow runs the pipelines. */}}
{{- define "secateur.runNamespace" -}}
{{- default .Release.Namespace .Values.kubeflow.namespace }}
{{- end }}

{{/* Port of a URL: the one that it names, else that of its scheme. */}}
{{- define "secateur.port" -}}
{{- $url := urlParse . }}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" }}
{{- $port | default (ternary "443" "80" (eq $url.scheme "https")) }}
{{- end }}

{{/*
Namespace of the Service that a URL names, or nothing for a host outside of the cluster: dict root, url.
http://service is in the release's namespace, http://service.namespace.svc… in its own.
*/}}
{{- define "secateur.namespaceOf" -}}
{{- $host := (urlParse .url).host | regexFind "^[^:]+" }}
{{- if not (contains "." $host) }}
{{- .root.Release.Namespace }}
{{- else if regexMatch "^[^.]+\\.[^.]+\\.svc(\\..+)?$" $host }}
{{- index (splitList "." $host) 1 }}
{{- end }}
{{- end }}

{{/* Name of a claim: dict root, name (workspace, engines or data). */}}
{{- define "secateur.claimName" -}}
{{- $claim := get .root.Values.persistence .name }}
{{- $claim.existingClaim | default $claim.claimName | default (printf "%s-%s" (include "secateur.fullname" .root) .name) }}
{{- end }}
