{{/* A password per role, the same at every rendering: [root, role]. */}}
{{- define "darkroom.dev.password" -}}
{{- printf "%s of %s" (index . 1) (index . 0).Values.devServices.password | sha256sum | trunc 32 -}}
{{- end }}

{{/* Service, network policy and metadata of one trial service: [root, component, port]. */}}
{{- define "darkroom.dev.door" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $name := printf "%s-%s" (include "darkroom.fullname" $root) $component -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace | quote }}
  {{- include "darkroom.metadata" (list $root $component) | nindent 2 }}
spec:
  selector:
    {{- include "darkroom.selector" $root | nindent 4 }}
    app.kubernetes.io/component: {{ $component }}
  ports:
    - {name: {{ $component }}, port: {{ index . 2 }}, protocol: TCP, targetPort: {{ $component }}}
{{- if $root.Values.networkPolicy.enabled }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace | quote }}
  {{- include "darkroom.metadata" (list $root $component) | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "darkroom.selector" $root | nindent 6 }}
      app.kubernetes.io/component: {{ $component }}
  policyTypes: [Ingress, Egress]
  ingress:
    - ports:
        - {port: {{ $component }}, protocol: TCP}
      from:
        - podSelector:
            matchLabels:
              {{- include "darkroom.selector" $root | nindent 14 }}
        {{- if ne $component "valkey" }}
        # Pipeline runs.
        - namespaceSelector:
            matchLabels:
              kubernetes.io/metadata.name: {{ include "darkroom.training.namespace" $root | quote }}
        {{- end }}
        {{- if eq $component "postgres" }}
        # KEDA reads the outstanding work.
        - namespaceSelector:
            matchLabels:
              kubernetes.io/metadata.name: keda
        {{- end }}
{{- end }}
{{- end }}

{{/* Image name with the global registry: [root, image]. */}}
{{- define "darkroom.dev.image" -}}
{{- $registry := (index . 0).Values.global.imageRegistry -}}
{{- if $registry -}}
{{ $registry }}/{{ regexReplaceAll "^([^/]*[.:][^/]*|localhost)/" (index . 1) "" }}
{{- else -}}
{{ index . 1 }}
{{- end -}}
{{- end }}
