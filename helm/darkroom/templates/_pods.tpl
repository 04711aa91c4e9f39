{{/* Pod fields shared by all pods: [root, component, its values, account or ""]. */}}
{{- define "darkroom.pod" -}}
{{- $root := index . 0 -}}
{{- $values := index . 2 -}}
automountServiceAccountToken: false
enableServiceLinks: false
serviceAccountName: {{ index . 3 }}
{{- with $root.Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  {{- toYaml $root.Values.podSecurityContext | nindent 2 }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* Labels and annotations of a pod: [root, component, its values]. */}}
{{- define "darkroom.pod.metadata" -}}
{{- $root := index . 0 -}}
{{- $values := index . 2 -}}
labels:
  {{- include "darkroom.selector" $root | nindent 2 }}
  app.kubernetes.io/component: {{ index . 1 }}
  app.kubernetes.io/part-of: darkroom
  {{- with $root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with $values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- if or $root.Values.secretsVersion $root.Values.commonAnnotations $values.podAnnotations }}
annotations:
  {{- with $root.Values.secretsVersion }}
  darkroom/secrets-version: {{ . | quote }}
  {{- end }}
  {{- with $root.Values.commonAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with $values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Container fields: [root, image's values, name]. */}}
{{- define "darkroom.container" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
name: {{ index . 2 }}
image: {{ include "darkroom.image" (list $root $image) }}
imagePullPolicy: {{ $image.pullPolicy }}
securityContext:
  {{- toYaml $root.Values.containerSecurityContext | nindent 2 }}
{{- end }}

{{/* Init container that waits for a schema that works with this version: [root, role, resources]. */}}
{{- define "darkroom.wait" -}}
{{- $root := index . 0 -}}
{{ include "darkroom.container" (list $root $root.Values.slimImage "wait-for-database") }}
args: [db, wait]
env:
  {{- include "darkroom.env.database" (list $root (index . 1)) | nindent 2 }}
resources:
  {{- toYaml (index . 2) | nindent 2 }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
{{- end }}

{{/* Probes of a process that serves its health on the port `metrics`: [root, seconds to start]. */}}
{{- define "darkroom.probes" -}}
ports:
  - {name: metrics, containerPort: {{ (index . 0).Values.metrics.port | int64 }}, protocol: TCP}
startupProbe:
  httpGet: {path: /startupz, port: metrics}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ div (add (index . 1) 4) 5 }}
livenessProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 2
{{- end }}
