{{/* What is wrong with requests and limits, a line each: [path, resources]. */}}
{{- define "darkroom.check.resources" -}}
{{- $path := index . 0 -}}
{{- $limits := (index . 1).limits | default dict -}}
{{- range $name, $request := (index . 1).requests -}}
{{- $limit := get $limits $name -}}
{{- if and $limit (gt (include "darkroom.amount" $request | float64) (include "darkroom.amount" $limit | float64)) }}
{{ $path }}.resources: requests.{{ $name }} {{ $request }} is above limits.{{ $name }} {{ $limit }}
{{- end -}}
{{- end -}}
{{- range $kind, $amounts := index . 1 -}}
{{- range $name, $_ := $amounts -}}
{{- if not (regexMatch "^(cpu|memory|ephemeral-storage|hugepages-.+|.+/.+)$" $name) }}
{{ $path }}.resources: {{ $kind }}.{{ $name }} is no resource of Kubernetes; permitted: cpu, memory, ephemeral-storage, hugepages-SIZE, and DOMAIN/NAME
{{- end -}}
{{- end -}}
{{- range $name, $amount := pick $amounts "memory" "ephemeral-storage" -}}
{{- if lt (include "darkroom.amount" $amount | float64) 1048576000.0 }}
{{ $path }}.resources: {{ $kind }}.{{ $name }} {{ $amount }} is less than 1Mi, in which no process starts; permitted: bytes, with a unit such as Mi or Gi
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* What is wrong with security contexts, a line each: [root, path, values of a component]. A container would never start. */}}
{{- define "darkroom.check.security" -}}
{{- $path := index . 1 -}}
{{- $own := index . 2 -}}
{{- $pod := mergeOverwrite (deepCopy (index . 0).Values.podSecurityContext) (deepCopy ($own.podSecurityContext | default dict)) -}}
{{- $container := mergeOverwrite (deepCopy (index . 0).Values.containerSecurityContext) (deepCopy ($own.containerSecurityContext | default dict)) -}}
{{- $both := mergeOverwrite (deepCopy $pod) $container -}}
{{- if and $both.runAsNonRoot (eq (toString $both.runAsUser) "0") }}
{{ $path }}: runAsUser 0 and runAsNonRoot true are both given; permitted: one
{{- end -}}
{{- if and $container.privileged (not $container.allowPrivilegeEscalation) }}
{{ $path }}.containerSecurityContext: privileged true needs allowPrivilegeEscalation true, which is false
{{- end -}}
{{- end }}

{{/* What an API server would refuse of a pod, a line each: [path of its values, spec, names of its claims]. */}}
{{- define "darkroom.check.pod" -}}
{{- $path := index . 0 -}}
{{- $spec := index . 1 -}}
{{- $containers := concat $spec.initContainers $spec.containers -}}
{{- include "darkroom.check.repeated" (list $path "containers of the pod" "name" $containers) -}}
{{- include "darkroom.check.repeated" (list (printf "%s.extraVolumes" $path) "volumes of the pod" "name" $spec.volumes) -}}
{{- include "darkroom.check.repeated" (list (printf "%s.hostAliases" $path) "entries" "ip" ($spec.hostAliases | default list)) -}}
{{- if and (eq (toString $spec.dnsPolicy) "None") (not ($spec.dnsConfig | default dict).nameservers) }}
{{ $path }}: dnsPolicy None needs dnsConfig.nameservers, which is empty
{{- end -}}
{{- range $spec.volumes }}{{ include "darkroom.check.single" (list (printf "%s.extraVolumes" $path) .name (omit . "name" | keys) "a source, such as emptyDir") }}{{ end -}}
{{- $volumes := index . 2 -}}
{{- range $spec.volumes }}{{ $volumes = append $volumes .name }}{{ end -}}
{{- range $container := $containers -}}
{{- $of := printf "of container %s" .name -}}
{{- include "darkroom.check.repeated" (list (printf "%s.extraEnv" $path) (printf "variables %s" $of) "name" (.env | default list)) -}}
{{- include "darkroom.check.repeated" (list (printf "%s.extraVolumeMounts" $path) (printf "mounts %s" $of) "mountPath" (.volumeMounts | default list)) -}}
{{- range .env -}}
{{- include "darkroom.check.single" (list (printf "%s.extraEnv" $path) .name (omit . "name" | keys) "") -}}
{{- if hasKey . "valueFrom" }}{{ include "darkroom.check.single" (list (printf "%s.extraEnv" $path) .name (keys (.valueFrom | default dict)) "a source, such as secretKeyRef") }}{{ end -}}
{{- end -}}
{{- range .envFrom }}{{ include "darkroom.check.single" (list (printf "%s.extraEnvFrom" $path) "an entry" (omit . "prefix" | keys) "configMapRef or secretRef") }}{{ end -}}
{{- range .volumeMounts -}}
{{- if not (has .name $volumes) }}
{{ $path }}.extraVolumeMounts: {{ .name }} of container {{ $container.name }} is not among the volumes of the pod: {{ join ", " $volumes }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Whether one of several fields is given, a line: [path, whose, names of the given fields, what must be given or ""]. */}}
{{- define "darkroom.check.single" -}}
{{- $given := index . 2 | sortAlpha -}}
{{- if gt (len $given) 1 }}
{{ index . 0 }}: {{ index . 1 }} has both {{ join " and " $given }}; permitted: one
{{- else if and (index . 3) (not $given) }}
{{ index . 0 }}: {{ index . 1 }} has nothing; permitted: {{ index . 3 }}
{{- end -}}
{{- end }}

{{/* Elements of a list that have the same value of a field, a line each: [path, what they are, field, list]. */}}
{{- define "darkroom.check.repeated" -}}
{{- $path := index . 0 -}}
{{- $what := index . 1 -}}
{{- $field := index . 2 -}}
{{- $taken := list -}}
{{- range index . 3 -}}
{{- $value := get . $field -}}
{{- if has $value $taken }}
{{ $path }}: two {{ $what }} have the {{ $field }} {{ $value }}; permitted: one
{{- end -}}
{{- $taken = append $taken $value -}}
{{- end -}}
{{- end }}
