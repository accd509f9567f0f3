{{/* Name of the official chart's Service: it follows that chart's own rule. */}}
{{- define "secateur.mlflowService" -}}
{{- .Values.mlflow.fullnameOverride | default (printf "%s-mlflow" .Release.Name) | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "secateur.mlflowPort" -}}
{{- dig "server" "value_options" "port" 5000 .Values.mlflow | int }}
{{- end }}

{{/* Where clients reach MLflow. */}}
{{- define "secateur.trackingUri" -}}
{{- if .Values.tracking.uri }}
{{- .Values.tracking.uri }}
{{- else if .Values.mlflow.enabled }}
{{- $scheme := ternary "https" "http" (dig "tls" "enabled" false .Values.mlflow) }}
{{- printf "%s://%s.%s.svc.%s:%s" $scheme (include "secateur.mlflowService" .) .Release.Namespace .Values.clusterDomain (include "secateur.mlflowPort" .) }}
{{- else }}
{{- fail "tracking.uri is empty: give the address of your MLflow server (http://mlflow.mlflow.svc.cluster.local:5000), or set mlflow.enabled to install the official chart" }}
{{- end }}
{{- end }}

{{/*
Names under which the MLflow server answers, with commas. The server compares the whole Host header, the port
included. A list of one's own replaces MLflow's default, so the loopback (kubectl port-forward) is named again.
*/}}
{{- define "secateur.allowedHosts" -}}
{{- $service := include "secateur.mlflowService" . }}
{{- $port := include "secateur.mlflowPort" . }}
{{- $namespaced := printf "%s.%s" $service .Release.Namespace }}
{{- $hosts := list }}
{{- range list $service $namespaced (printf "%s.svc" $namespaced) (printf "%s.svc.%s" $namespaced .Values.clusterDomain) }}
{{- $hosts = concat $hosts (list . (printf "%s:%s" . $port)) }}
{{- end }}
{{- $hosts = concat $hosts (list "localhost" "localhost:*" "127.0.0.1" "127.0.0.1:*") }}
{{- if dig "ingress" "enabled" false .Values.mlflow }}
{{- range dig "ingress" "hosts" list .Values.mlflow }}{{ $hosts = append $hosts .host }}{{ end }}
{{- end }}
{{- if dig "metrics" "enabled" false .Values.mlflow }}
{{- $hosts = concat $hosts (list "10.*" "192.168.*") }}
{{- range $part := untilStep 16 32 1 }}{{ $hosts = append $hosts (printf "172.%d.*" $part) }}{{ end }}
{{- end }}
{{- join "," (concat $hosts .Values.mlflowServer.extraAllowedHosts | uniq) }}
{{- end }}

{{/* Origins from which a browser may change things: those of the Ingress. */}}
{{- define "secateur.allowedOrigins" -}}
{{- $origins := list }}
{{- if dig "ingress" "enabled" false .Values.mlflow }}
{{- $scheme := ternary "https" "http" (not (empty (dig "ingress" "tls" list .Values.mlflow))) }}
{{- range dig "ingress" "hosts" list .Values.mlflow }}{{ $origins = append $origins (printf "%s://%s" $scheme .host) }}{{ end }}
{{- end }}
{{- join "," (uniq $origins) }}
{{- end }}

{{/* Stop when the computed hosts would not arrive: the official chart takes them through envFrom alone. */}}
{{- define "secateur.checkMlflow" -}}
{{- if .Values.mlflow.enabled }}
{{- $wanted := .Values.mlflowServer.configMapName }}
{{- if dig "server" "value_options" "allowed_hosts" "" .Values.mlflow }}
{{- fail "mlflow.server.value_options.allowed_hosts would replace the computed host names: write yours into mlflowServer.extraAllowedHosts" }}
{{- end }}
{{- $found := false }}
{{- range dig "envFrom" list .Values.mlflow }}
{{- if eq (dig "configMapRef" "name" "" .) $wanted }}{{ $found = true }}{{ end }}
{{- end }}
{{- if not $found }}
{{- fail (printf "mlflow.envFrom lacks the ConfigMap %s (mlflowServer.configMapName): add {configMapRef: {name: %s}}, else the MLflow server refuses its own service name with 403" $wanted $wanted) }}
{{- end }}
{{- end }}
{{- end }}
