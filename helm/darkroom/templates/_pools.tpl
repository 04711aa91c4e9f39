{{/* A pool's values merged over workerDefaults, as YAML: [root, name]. */}}
{{- define "darkroom.pool" -}}
{{- $root := index . 0 -}}
{{- $own := default (dict) (index $root.Values.workerPools (index . 1)) -}}
{{- $pool := mergeOverwrite (deepCopy $root.Values.workerDefaults) (deepCopy $own) -}}
{{- /* A node selector is replaced as a whole: a mixture of two selectors would match no node. */ -}}
{{- range $whole := list "nodeSelector" "affinity" "resources" -}}
{{- if hasKey $own $whole }}{{ $_ := set $pool $whole (index $own $whole) }}{{ end -}}
{{- end -}}
{{ toYaml $pool }}
{{- end }}

{{/* The GPUs of a pool as a resource: its values. */}}
{{- define "darkroom.gpus" -}}
{{- if and .gpu.count (not .gpu.claimTemplate) -}}
{{ .gpu.resource }}: {{ .gpu.count | int64 }}
{{- end -}}
{{- end }}

{{/* The device of a pool: its values. With a GPU it is that GPU: `auto` would serve on the CPU if a driver is too old. */}}
{{- define "darkroom.device" -}}
{{- $has := or .gpu.count .gpu.claimTemplate -}}
{{- if and (eq .device "auto") $has }}cuda{{ else }}{{ .device }}{{ end -}}
{{- end }}

{{/* GiB of weights that a worker keeps loaded: its values. Without a GPU they are in the pod's memory. */}}
{{- define "darkroom.modelMemory" -}}
{{- $hasGpu := or .gpu.count .gpu.claimTemplate -}}
{{- $memory := get (.resources.limits | default dict) "memory" -}}
{{- if .modelMemoryGb -}}
{{ .modelMemoryGb }}
{{- else if and $memory (not $hasGpu) -}}
{{ divf (include "darkroom.amount" $memory | float64) 2147483648000 | minf 16 | printf "%.2f" | trimSuffix "0" | trimSuffix "0" | trimSuffix "." }}
{{- else -}}
16
{{- end -}}
{{- end }}

{{/* Whether several pods share a pool's cache of releases: its values. */}}
{{- define "darkroom.cache.isShared" -}}
{{- if or .cache.existingClaim .cache.hostPath }}true{{ else }}false{{ end -}}
{{- end }}

{{/* The volumes of a pool's caches: its values. Compiled kernels are never shared: another card may have other ones. */}}
{{- define "darkroom.cache.volumes" -}}
{{- $isShared := eq (include "darkroom.cache.isShared" .) "true" -}}
{{- $size := printf "%dGi" (int (add (ternary 0 .cache.sizeGb $isShared) 5)) -}}
- name: cache
  {{- if .cache.storageClass }}
  ephemeral:
    volumeClaimTemplate:
      spec:
        accessModes: [ReadWriteOnce]
        storageClassName: {{ .cache.storageClass | quote }}
        resources: {requests: {storage: {{ $size }}}}
  {{- else }}
  emptyDir: {sizeLimit: {{ $size }}}
  {{- end }}
{{- if .cache.existingClaim }}
- name: releases
  persistentVolumeClaim: {claimName: {{ .cache.existingClaim | quote }}}
{{- else if .cache.hostPath }}
- name: releases
  hostPath: {path: {{ .cache.hostPath | quote }}, type: Directory}
{{- end }}
{{- with .cache.image.reference }}
- name: seed
  image: {reference: {{ . | quote }}, pullPolicy: {{ $.cache.image.pullPolicy | quote }}}
{{- end }}
{{- end }}

{{/*
Number of pods of a pool's Deployment, empty if it belongs to the autoscaler: [root, name, values].

A Deployment that loses its `replicas` falls to one pod at once. So if Helm itself has set them, they stay what they are
in the cluster: while the autoscaler has not taken over the field, or always with client-side apply (Helm 3), which
deletes a field that an earlier manifest had.
*/}}
{{- define "darkroom.replicas" -}}
{{- $root := index . 0 -}}
{{- $values := index . 2 -}}
{{- if not $values.autoscaling.enabled -}}
{{ ternary 0 ($values.replicas | int64) $values.paused }}
{{- else if $root.Release.IsUpgrade -}}
{{- $live := lookup "apps/v1" "Deployment" $root.Release.Namespace (index . 1) -}}
{{- $isOurs := false -}}
{{- range ($live.metadata | default dict).managedFields -}}
{{- $sets := hasKey (index (.fieldsV1 | default dict) "f:spec" | default dict) "f:replicas" -}}
{{- if and (eq .manager "helm") (or $sets (eq .operation "Update")) }}{{ $isOurs = true }}{{ end -}}
{{- end -}}
{{- if $isOurs }}{{ $live.spec.replicas | int64 }}{{ end -}}
{{- end -}}
{{- end }}

{{/* What a pool counts for among the pools of its queues: its values. A paused pool counts for nothing. */}}
{{- define "darkroom.weight" -}}
{{- if .paused -}}
0
{{- else if .autoscaling.weight -}}
{{ .autoscaling.weight | int64 }}
{{- else -}}
{{ mul (ternary .autoscaling.maxReplicas .replicas .autoscaling.enabled) .autoscaling.evaluationsPerReplica }}
{{- end -}}
{{- end }}

{{/*
The pool's part of the work of each of its queues, as an SQL expression: [root, values]. It is empty if no other pool
serves them. The parts of all pools of a queue add up to its work.
*/}}
{{- define "darkroom.share" -}}
{{- $root := index . 0 -}}
{{- $values := index . 1 -}}
{{- $own := include "darkroom.weight" $values | int64 -}}
{{- $cases := list -}}
{{- range $queue := $values.queues -}}
{{- $total := 0 -}}
{{- range $pool, $_ := $root.Values.workerPools -}}
{{- $other := include "darkroom.pool" (list $root $pool) | fromYaml -}}
{{- if has $queue $other.queues }}{{ $total = add $total (include "darkroom.weight" $other | int64) }}{{ end -}}
{{- end -}}
{{- if and $total (ne (int64 $total) $own) -}}
{{- $cases = append $cases (printf "WHEN '%s' THEN evaluations::numeric * %d / %d" $queue $own $total) -}}
{{- end -}}
{{- end -}}
{{- if $cases }}CASE queue {{ join " " $cases }} ELSE evaluations END{{ end -}}
{{- end }}
