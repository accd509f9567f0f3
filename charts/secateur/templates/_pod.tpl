{{/* Settings of every container; nothing in the values weakens them. */}}
{{- define "secateur.containerSecurity" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
{{- with .Values.pod.runAsUser }}
runAsUser: {{ . | int64 }}
{{- end }}
{{- with .Values.pod.runAsGroup }}
runAsGroup: {{ . | int64 }}
{{- end }}
capabilities:
  drop:
    - ALL
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* Environment that each Secateur process gets: writable folders, no pickle, no telemetry. */}}
{{- define "secateur.baseEnv" -}}
- name: HOME
  value: /tmp
- name: TMPDIR
  value: {{ .temporary }}
- name: PYTHONDONTWRITEBYTECODE
  value: "1"
- name: MLFLOW_ALLOW_PICKLE_DESERIALIZATION
  value: "false"
- name: MLFLOW_ALLOW_MODEL_CODE_EXECUTION
  value: "false"
- name: MLFLOW_DISABLE_TELEMETRY
  value: "true"
{{- end }}

{{/*
Credentials, each from its key of the Secret; a key that is missing there stays unset.
dict: root, prefix (only keys that begin so).
*/}}
{{- define "secateur.secretEnv" -}}
{{- $secret := .root.Values.credentials.existingSecret }}
{{- $prefix := .prefix }}
{{- if $secret }}
{{- range .root.Values.credentials.keys }}
{{- if hasPrefix $prefix . }}
- name: {{ . }}
  valueFrom:
    secretKeyRef:
      name: {{ $secret }}
      key: {{ . }}
      optional: true
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* How a process finds the Kubeflow API. */}}
{{- define "secateur.kubeflowEnv" -}}
- name: KF_PIPELINES_ENDPOINT
  value: {{ .Values.kubeflow.endpoint | quote }}
{{- if .Values.kubeflow.multiUser }}
- name: KF_PIPELINES_SA_TOKEN_PATH
  value: /var/run/secrets/kubeflow/pipelines/token
- name: SECATEUR_NAMESPACE
  value: {{ include "secateur.runNamespace" . | quote }}
{{- end }}
{{- end }}

{{/*
Pod template of a Job or of the test.
dict: root, component, command (list), env (YAML), volumes and mounts (YAML), resources.
*/}}
{{- define "secateur.podTemplate" -}}
{{- $values := .root.Values -}}
metadata:
  labels:
    {{- include "secateur.podLabels" . | nindent 4 }}
  {{- with $values.pod.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "secateur.podSpec" . | nindent 2 }}
{{- end }}

{{- define "secateur.podLabels" -}}
{{ include "secateur.selectorLabels" .root }}
app.kubernetes.io/component: {{ .component }}
{{- with .root.Values.pod.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "secateur.podSpec" -}}
{{- $values := .root.Values -}}
serviceAccountName: {{ include "secateur.serviceAccountName" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
restartPolicy: Never
{{- with $values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  {{- with $values.pod.fsGroup }}
  fsGroup: {{ . | int64 }}
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
containers:
  - name: {{ .component }}
    image: {{ include "secateur.image" .root | quote }}
    imagePullPolicy: {{ $values.image.pullPolicy }}
    command:
      {{- toYaml .command | nindent 6 }}
    env:
      {{- include "secateur.baseEnv" (dict "temporary" "/tmp") | nindent 6 }}
      {{- with .env }}
      {{- . | trim | nindent 6 }}
      {{- end }}
    envFrom:
      - configMapRef:
          name: {{ $values.config.name }}
    securityContext:
      {{- include "secateur.containerSecurity" .root | nindent 6 }}
    resources:
      {{- toYaml .resources | nindent 6 }}
    volumeMounts:
      - name: tmp
        mountPath: /tmp
      {{- if and .isClient $values.kubeflow.multiUser }}
      - name: kubeflow-token
        mountPath: /var/run/secrets/kubeflow/pipelines
        readOnly: true
      {{- end }}
      {{- with .mounts }}
      {{- . | trim | nindent 6 }}
      {{- end }}
volumes:
  - name: tmp
    emptyDir:
      sizeLimit: {{ $values.pod.tmpSize }}
  {{- if and .isClient $values.kubeflow.multiUser }}
  - name: kubeflow-token
    projected:
      sources:
        - serviceAccountToken:
            path: token
            audience: {{ $values.kubeflow.tokenAudience }}
            expirationSeconds: 7200
  {{- end }}
  {{- with .volumes }}
  {{- . | trim | nindent 2 }}
  {{- end }}
{{- with $values.pod.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.pod.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.pod.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.pod.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* A Job that Helm starts: dict root, component, when, weight, command, env, volumes, mounts. */}}
{{- define "secateur.hookJob" -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ include "secateur.fullname" .root }}-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "secateur.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
  annotations:
    helm.sh/hook: {{ .when }}
    helm.sh/hook-weight: {{ .weight | quote }}
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  backoffLimit: {{ .root.Values.hooks.backoffLimit }}
  activeDeadlineSeconds: {{ .root.Values.hooks.activeDeadlineSeconds }}
  template:
    {{- include "secateur.podTemplate" (merge (dict "isClient" true "resources" .root.Values.hooks.resources) .) | nindent 4 }}
{{- end }}
