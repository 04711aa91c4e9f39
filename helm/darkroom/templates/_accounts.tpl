{{/* Name of a component's service account: [root, component, values]. */}}
{{- define "darkroom.account" -}}
{{- $given := ((index . 2).serviceAccount | default dict).name -}}
{{ $given | default (printf "%s-%s" (include "darkroom.fullname" (index . 0)) (index . 1)) }}
{{- end }}

{{/* Name of the account of the test, which is the dispatcher's unless the test's values say otherwise: root. */}}
{{- define "darkroom.test.account" -}}
{{- ternary (include "darkroom.account" (list . "test" .Values.test)) (include "darkroom.account" (list . "dispatcher" .Values.dispatcher)) (hasKey .Values.test "serviceAccount") -}}
{{- end }}

{{/* The values of every component that has an account of its own, by component, as YAML: root. */}}
{{- define "darkroom.accounts.values" -}}
{{- $found := dict "dispatcher" .Values.dispatcher -}}
{{- range $component := list "migration" "exporter" "console" "retention" -}}
{{- if (get $.Values $component).enabled }}{{ $_ := set $found $component (get $.Values $component) }}{{ end -}}
{{- end -}}
{{- if and .Values.test.enabled (hasKey .Values.test "serviceAccount") }}{{ $_ := set $found "test" .Values.test }}{{ end -}}
{{- range $pool, $_ := .Values.workerPools -}}
{{- $_ := set $found (printf "worker-%s" $pool) (include "darkroom.pool" (list $ $pool) | fromYaml) -}}
{{- end -}}
{{ toYaml $found }}
{{- end }}

{{/* The service accounts by name, each with component, create and annotations, as YAML: root. Components can share one. */}}
{{- define "darkroom.accounts" -}}
{{- $found := dict -}}
{{- range $component, $values := include "darkroom.accounts.values" . | fromYaml -}}
{{- $own := $values.serviceAccount | default dict -}}
{{- $name := include "darkroom.account" (list $ $component $values) -}}
{{- $account := get $found $name | default (dict "component" (regexReplaceAll "-.*" $component "") "create" false "annotations" dict) -}}
{{- if dig "create" true $own }}{{ $_ := set $account "create" true }}{{ end -}}
{{- $_ := set $account "annotations" (merge $account.annotations ($own.annotations | default dict)) -}}
{{- $_ := set $found $name $account -}}
{{- end -}}
{{ toYaml $found }}
{{- end }}

{{/* What is wrong with the service accounts, a line each: root. */}}
{{- define "darkroom.check.accounts" -}}
{{- $accounts := include "darkroom.accounts" . | fromYaml -}}
{{- range $component, $values := include "darkroom.accounts.values" . | fromYaml -}}
{{- $own := $values.serviceAccount | default dict -}}
{{- $path := regexReplaceAll "^worker-" $component "workerPools." -}}
{{- $account := get $accounts (include "darkroom.account" (list $ $component $values)) -}}
{{- if and (not (dig "create" true $own)) (not $own.name) }}
{{ $path }}.serviceAccount: create false needs name, the account that the pods use
{{- end -}}
{{- range $key, $value := $own.annotations -}}
{{- if ne $value (get $account.annotations $key) }}
{{ $path }}.serviceAccount: annotations.{{ $key }} {{ $value }} differs from {{ get $account.annotations $key }}, which another component gives the account {{ $own.name }}; permitted: one
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}
