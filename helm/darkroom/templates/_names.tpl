{{/* Prefix of every object's name. Pools add at most 21 characters to it, components 16. */}}
{{- define "darkroom.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 35 | trimSuffix "-" -}}
{{- else -}}
{{- /* A release may have dots in its name, but a Service may not. */ -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | replace "." "-" | trunc 35 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* A value as text. Helm keeps numbers as floating-point ones, whose text would be 2.0261127e+07. */}}
{{- define "darkroom.text" -}}
{{- ternary (printf "%.0f" (float64 .)) (toString .) (kindIs "float64" .) -}}
{{- end }}

{{- define "darkroom.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* Labels and annotations of every object: [root, component]. */}}
{{- define "darkroom.metadata" -}}
{{- $root := index . 0 -}}
labels:
  {{- include "darkroom.selector" $root | nindent 2 }}
  app.kubernetes.io/component: {{ index . 1 }}
  app.kubernetes.io/part-of: darkroom
  app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ $root.Release.Service }}
  helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
  {{- with $root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Full image name: [root, image's values]. */}}
{{- define "darkroom.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $registry := default $image.registry $root.Values.global.imageRegistry -}}
{{- $name := ternary $image.repository (printf "%s/%s" $registry $image.repository) (empty $registry) -}}
{{- if $image.digest -}}
{{ $name }}@{{ $image.digest }}
{{- else -}}
{{ $name }}:{{ default $root.Chart.AppVersion $image.tag }}
{{- end -}}
{{- end }}

{{- define "darkroom.training.namespace" -}}
{{ default .Release.Namespace .Values.training.namespace }}
{{- end }}
