{{/* The key of the Secret for each role that this release uses, as YAML. */}}
{{- define "darkroom.database.keys" -}}
{{ ternary .Values.database.keys (omit .Values.database.keys "console") .Values.console.enabled | toYaml }}
{{- end }}

{{/* The database URL of a role: [root, role]. */}}
{{- define "darkroom.env.database" -}}
{{- $database := (index . 0).Values.database -}}
- name: DARKROOM_DATABASE_URL
  valueFrom:
    secretKeyRef: {name: {{ $database.existingSecret | quote }}, key: {{ index $database.keys (index . 1) | quote }}}
{{- end }}

{{- define "darkroom.env.objectStore" -}}
{{- $store := .Values.objectStore -}}
- {name: DARKROOM_S3_BUCKET, value: {{ .Values.objectStore.bucket | quote }}}
- {name: DARKROOM_S3_REGION, value: {{ $store.region | quote }}}
{{- with include "darkroom.objectStore.endpoint" . }}
- {name: DARKROOM_S3_ENDPOINT_URL, value: {{ . | quote }}}
{{- end }}
{{- with include "darkroom.objectStore.secret" . }}
- name: DARKROOM_S3_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef: {name: {{ . | quote }}, key: {{ $store.keys.accessKeyId | quote }}}
- name: DARKROOM_S3_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef: {name: {{ . | quote }}, key: {{ $store.keys.secretAccessKey | quote }}}
{{- end }}
{{- end }}

{{- define "darkroom.objectStore.endpoint" -}}
{{- if .Values.objectStore.endpointUrl -}}
{{ .Values.objectStore.endpointUrl }}
{{- else if .Values.devServices.enabled -}}
http://{{ include "darkroom.fullname" . }}-seaweedfs.{{ .Release.Namespace }}:8333
{{- end -}}
{{- end }}

{{/* Name of the Secret with the access key; empty if pods use a role of their own. */}}
{{- define "darkroom.objectStore.secret" -}}
{{- if .Values.objectStore.existingSecret -}}
{{ .Values.objectStore.existingSecret }}
{{- else if .Values.devServices.enabled -}}
{{ include "darkroom.fullname" . }}-object-store
{{- end -}}
{{- end }}

{{- define "darkroom.env.broker" -}}
- name: DARKROOM_BROKER_URL
  valueFrom:
    secretKeyRef: {name: {{ .Values.broker.existingSecret | quote }}, key: {{ .Values.broker.key | quote }}}
{{- end }}

{{/* Variables of long-running processes: metrics, logs and intervals. */}}
{{- define "darkroom.env.serving" -}}
{{- $settings := .Values.settings -}}
- {name: DARKROOM_METRICS_HOST, value: "::"}  # all of the pod, IPv4 and IPv6; the network policy restricts access
- {name: DARKROOM_METRICS_PORT, value: {{ .Values.metrics.port | int64 | quote }}}
- {name: DARKROOM_HEARTBEAT_S, value: {{ $settings.heartbeatSeconds | quote }}}
- {name: DARKROOM_STALE_S, value: {{ $settings.staleSeconds | quote }}}
- {name: DARKROOM_POLL_S, value: {{ $settings.pollSeconds | quote }}}
- {name: DARKROOM_STEP_LIMIT_S, value: {{ $settings.stepLimitSeconds | quote }}}
{{ include "darkroom.env.logs" . }}
{{- end }}

{{- define "darkroom.env.logs" -}}
- {name: DARKROOM_LOG_FORMAT, value: {{ .Values.settings.logFormat }}}
- {name: DARKROOM_LOG_LEVEL, value: {{ .Values.settings.logLevel }}}
{{- end }}
