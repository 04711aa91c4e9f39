{{/* What an API server would refuse of a pod, a line each: [path of its values, spec, names of its claims]. */}}
{{- define "darkroom.check.pod" -}}
{{- $path := index . 0 -}}
{{- $spec := index . 1 -}}
{{- $containers := concat $spec.initContainers $spec.containers -}}
{{- include "darkroom.check.repeated" (list $path "containers of the pod" "name" $containers) -}}
{{- include "darkroom.check.repeated" (list (printf "%s.extraVolumes" $path) "volumes of the pod" "name" $spec.volumes) -}}
{{- include "darkroom.check.repeated" (list (printf "%s.hostAliases" $path) "entries" "ip" ($spec.hostAliases | default list)) -}}
{{- $volumes := index . 2 -}}
{{- range $spec.volumes }}{{ $volumes = append $volumes .name }}{{ end -}}
{{- range $container := $containers -}}
{{- $of := printf "of container %s" .name -}}
{{- include "darkroom.check.repeated" (list (printf "%s.extraEnv" $path) (printf "variables %s" $of) "name" (.env | default list)) -}}
{{- include "darkroom.check.repeated" (list (printf "%s.extraVolumeMounts" $path) (printf "mounts %s" $of) "mountPath" (.volumeMounts | default list)) -}}
{{- range .volumeMounts -}}
{{- if not (has .name $volumes) }}
{{ $path }}.extraVolumeMounts: {{ .name }} of container {{ $container.name }} is not among the volumes of the pod: {{ join ", " $volumes }}
{{- end -}}
{{- end -}}
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
