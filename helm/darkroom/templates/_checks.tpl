{{/* The number that a quantity stands for, in bytes or thousandths: quantity. */}}
{{- define "darkroom.amount" -}}
{{- $text := toString . -}}
{{- $unit := regexFind "[A-Za-z]+$" $text -}}
{{- $factors := dict "" 1000 "m" 1 "k" 1000000 "M" 1000000000 "G" 1000000000000 "T" 1000000000000000 "P" 1000000000000000000 "E" 1e21 "Ki" 1024000 "Mi" 1048576000 "Gi" 1073741824000 "Ti" 1099511627776000 "Pi" 1125899906842624000 "Ei" 1152921504606846976e3 -}}
{{- mulf (trimSuffix $unit $text | float64) (get $factors $unit | default 0) | printf "%.0f" -}}
{{- end }}

{{/* What is wrong with a cron schedule, a line: [path, schedule]. */}}
{{- define "darkroom.check.schedule" -}}
{{- $path := index . 0 -}}
{{- $schedule := index . 1 -}}
{{- if not (hasPrefix "@" $schedule) -}}
{{- $names := list "minute" "hour" "day" "month" "weekday" -}}
{{- $units := list "[0-5]?[0-9]" "[01]?[0-9]|2[0-3]" "0?[1-9]|[12][0-9]|3[01]" "0?[1-9]|1[0-2]|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec" "[0-6]|sun|mon|tue|wed|thu|fri|sat" -}}
{{- $numbers := dict "jan" 1 "feb" 2 "mar" 3 "apr" 4 "may" 5 "jun" 6 "jul" 7 "aug" 8 "sep" 9 "oct" 10 "nov" 11 "dec" 12 "mon" 1 "tue" 2 "wed" 3 "thu" 4 "fri" 5 "sat" 6 -}}
{{- range $i, $field := regexSplit " +" $schedule -1 -}}
{{- $one := printf "([*?]|(%s)(-(%s))?)(/[1-9][0-9]*)?" (index $units $i) (index $units $i) -}}
{{- $isWrong := not (regexMatch (printf "(?i)^%s(,%s)*$" $one $one) $field) -}}
{{- range regexFindAll "[0-9a-z]+-[0-9a-z]+" (lower $field) -1 -}}
{{- $ends := splitList "-" . -}}
{{- $first := get $numbers (first $ends) | default (first $ends | atoi) -}}
{{- $last := get $numbers (last $ends) | default (last $ends | atoi) -}}
{{- if gt $first $last }}{{ $isWrong = true }}{{ end -}}
{{- end -}}
{{- if $isWrong }}
{{ $path }}: {{ quote $schedule }} is not a cron schedule, because {{ quote $field }} is no {{ index $names $i }}; permitted: minute, hour, day, month and weekday, such as "17 3 * * *"
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* What is wrong with the keys of the database's Secret, a line: root. */}}
{{- define "darkroom.check.database" -}}
{{- $taken := dict -}}
{{- range $role, $key := include "darkroom.database.keys" . | fromYaml -}}
{{- $other := get $taken $key -}}
{{- if and $other $.Values.devServices.enabled }}
database.keys: {{ $other }} and {{ $role }} are both {{ quote $key }}; permitted with devServices.enabled: a key for each role
{{- else if and $.Values.migration.enabled $.Values.migration.logins (ne $role "migrator") (eq $key $.Values.database.keys.migrator) }}
database.keys: migrator and {{ $role }} are both {{ quote $key }}, and migration.logins true would limit the migrator's own login; permitted: a login of its own, or migration.logins: false
{{- end -}}
{{- $_ := set $taken $key $role -}}
{{- end -}}
{{- end }}

{{/* What is wrong with a pool, a line each: [root, pool, values]. */}}
{{- define "darkroom.check.pool" -}}
{{- $root := index . 0 -}}
{{- $pool := index . 1 -}}
{{- $values := index . 2 -}}
{{- $path := printf "workerPools.%s" $pool -}}
{{- $limits := $values.resources.limits | default dict -}}
{{- $hasGpu := or $values.gpu.count $values.gpu.claimTemplate -}}
{{- if not (regexMatch "^[a-z]([a-z0-9-]{0,18}[a-z0-9])?$" $pool) }}
workerPools: {{ quote $pool }} is not allowed; permitted: a-z, 0-9 and -, at most 20
{{- end -}}
{{- range $values.queues -}}
{{- if not (has . $root.Values.queues) }}
{{ $path }}.queues: {{ quote . }} is not among queues: {{ join ", " $root.Values.queues }}
{{- end -}}
{{- end -}}
{{- if gt (int64 $values.autoscaling.minReplicas) (int64 $values.autoscaling.maxReplicas) }}
{{ $path }}.autoscaling: minReplicas {{ $values.autoscaling.minReplicas }} is above maxReplicas {{ $values.autoscaling.maxReplicas }}
{{- end -}}
{{- if gt (int64 $values.autoscaling.fallback.replicas) (int64 $values.autoscaling.maxReplicas) }}
{{ $path }}.autoscaling: fallback.replicas {{ $values.autoscaling.fallback.replicas }} is above maxReplicas {{ $values.autoscaling.maxReplicas }}
{{- end -}}
{{- if and $values.gpu.claimTemplate (ne $values.gpu.resource "nvidia.com/gpu") }}
{{ $path }}.gpu: claimTemplate {{ $values.gpu.claimTemplate }} and resource {{ $values.gpu.resource }} are both given; permitted: one
{{- end -}}
{{- if and (eq (toString $values.rollout.maxSurge | trimSuffix "%") "0") (eq (toString $values.rollout.maxUnavailable | trimSuffix "%") "0") }}
{{ $path }}.rollout: maxSurge and maxUnavailable are both 0, so no pod could ever be replaced
{{- end -}}
{{- range $name, $_ := merge (dict) ($values.resources.requests | default dict) $limits -}}
{{- if contains "/" $name }}
{{ $path }}.resources: {{ $name }} belongs into gpu.resource and gpu.count, so that another kind of GPU can take its place
{{- end -}}
{{- end -}}
{{- include "darkroom.check.resources" (list $path $values.resources) -}}
{{- $memory := get $limits "memory" -}}
{{- if and $memory (gt (include "darkroom.amount" $values.shm | float64) (include "darkroom.amount" $memory | float64)) }}
{{ $path }}: shm {{ $values.shm }} is above resources.limits.memory {{ $memory }}, of which it is a part
{{- end -}}
{{- if and $memory (not $hasGpu) (gt (mulf $values.modelMemoryGb 1073741824000) (include "darkroom.amount" $memory | float64)) }}
{{ $path }}: modelMemoryGb {{ $values.modelMemoryGb }} is above resources.limits.memory {{ $memory }}, in which the weights are held without a GPU
{{- end -}}
{{- /* On the node's disk: releases, 5 GiB of compiled kernels, and 2 GiB of /tmp. */ -}}
{{- $disk := get $limits "ephemeral-storage" -}}
{{- $isShared := eq (include "darkroom.cache.isShared" $values) "true" -}}
{{- $own := add 2 (ternary 0 5 (not (empty $values.cache.storageClass))) (ternary 0 $values.cache.sizeGb (or $isShared (not (empty $values.cache.storageClass)))) -}}
{{- if and $disk (gt (mulf $own 1073741824000) (include "darkroom.amount" $disk | float64)) }}
{{ $path }}: cache.sizeGb {{ $values.cache.sizeGb }} and 7 Gi for kernels and /tmp are above resources.limits.ephemeral-storage {{ $disk }}; a pod that uses them would be evicted
{{- end -}}
{{- include "darkroom.check.schedule" (list (printf "%s.cache.warm.schedule" $path) $values.cache.warm.schedule) -}}
{{- if and $values.cache.warm.alias (not $values.cache.existingClaim) }}
{{ $path }}.cache: warm.alias {{ $values.cache.warm.alias }} needs existingClaim, which is empty: only a claim can be filled before the pods exist
{{- end -}}
{{- $places := list -}}
{{- range $place := list "storageClass" "existingClaim" "hostPath" -}}
{{- if get $values.cache $place }}{{ $places = append $places (printf "%s %s" $place (get $values.cache $place)) }}{{ end -}}
{{- end -}}
{{- if gt (len $places) 1 }}
{{ $path }}.cache: {{ join " and " $places }} are both given; permitted: one place
{{- end -}}
{{- if and (eq $values.device "cuda") (not $hasGpu) }}
{{ $path }}: device cuda needs a GPU, and gpu.count is 0
{{- end -}}
{{- if and (eq $values.device "cpu") $hasGpu }}
{{ $path }}: device cpu would leave the GPU idle that gpu.count {{ $values.gpu.count }} requests
{{- end -}}
{{- if and $values.gpu.product (not $hasGpu) }}
{{ $path }}: gpu.product {{ $values.gpu.product }} needs a GPU, and gpu.count is 0
{{- end -}}
{{- $selected := get ($values.nodeSelector | default dict) "nvidia.com/gpu.product" -}}
{{- if and $values.gpu.product $selected (ne $values.gpu.product $selected) }}
{{ $path }}: gpu.product {{ $values.gpu.product }} and nodeSelector nvidia.com/gpu.product {{ $selected }} match no node together
{{- end -}}
{{- end }}

{{/* What is wrong with the names of objects, a line each: root. */}}
{{- define "darkroom.check.names" -}}
{{- $name := include "darkroom.fullname" . -}}
{{- if not (regexMatch "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$" $name) }}
nameOverride: {{ quote $name }} cannot begin the names of objects; permitted: a-z, 0-9 and -, or fullnameOverride beside it
{{- else if and (regexMatch "^[0-9]" $name) (or .Values.console.enabled .Values.devServices.enabled) }}
fullnameOverride: must be given, beginning with a letter, because {{ quote $name }} would begin the name of a Service
{{- end -}}
{{- end }}

{{/* What is wrong with the weights of the pools of each queue, a line each: root. */}}
{{- define "darkroom.check.weights" -}}
{{- $root := . -}}
{{- range $queue := .Values.queues -}}
{{- $weighed := list -}}
{{- $others := list -}}
{{- range $pool, $_ := $root.Values.workerPools -}}
{{- $values := include "darkroom.pool" (list $root $pool) | fromYaml -}}
{{- if and (has $queue $values.queues) (not $values.paused) -}}
{{- if $values.autoscaling.weight }}{{ $weighed = append $weighed $pool }}{{ else }}{{ $others = append $others $pool }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if and $weighed $others }}
workerPools: of the pools of queue {{ quote $queue }}, {{ join ", " $weighed }} has autoscaling.weight and {{ join ", " $others }} has none; permitted: all or none
{{- end -}}
{{- end -}}
{{- end }}

{{/* What is wrong with the object store, a line each: root. */}}
{{- define "darkroom.check.objectStore" -}}
{{- $store := .Values.objectStore -}}
{{- if and $store.existingSecret (eq $store.keys.accessKeyId $store.keys.secretAccessKey) }}
objectStore.keys: accessKeyId and secretAccessKey are both {{ quote $store.keys.accessKeyId }}; permitted: two keys of the Secret
{{- end -}}
{{- $policy := .Values.networkPolicy -}}
{{- if and $store.endpointUrl $policy.enabled (not $policy.extraEgress) (not .Values.devServices.enabled) -}}
{{- $url := urlParse $store.endpointUrl -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (ternary "443" "80" (eq $url.scheme "https")) -}}
{{- $permitted := list -}}
{{- range $policy.objectStore.ports }}{{ $permitted = append $permitted (. | int64 | toString) }}{{ end -}}
{{- if not (has $port $permitted) }}
objectStore.endpointUrl: port {{ $port }} is not among networkPolicy.objectStore.ports, {{ join ", " $permitted }}; no pod could reach it
{{- end -}}
{{- end -}}
{{- end }}

{{/* What a console lacks, a line each: root. Without these, anyone could name a viewer, or nobody could sign in. */}}
{{- define "darkroom.check.console" -}}
{{- $policy := .Values.networkPolicy -}}
{{- with .Values.console -}}
{{- $found := dict "console.hosts" .hosts -}}
{{- if .oidc.issuer -}}
{{- $_ := set $found "console.oidc.clientId" .oidc.clientId -}}
{{- if not .oidc.tenantClaim -}}{{- $_ := set $found "console.tenants" .tenants -}}{{- end -}}
{{- if or .proxy.userHeader .proxy.networks }}
console: oidc.issuer and proxy are both given; permitted: one
{{- end -}}
{{- if and .oidc.tenantClaim .tenants }}
console: oidc.tenantClaim and tenants are both given; permitted: one
{{- end -}}
{{- $url := urlParse .oidc.issuer -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default "443" -}}
{{- $permitted := list -}}
{{- range $policy.oidc.ports }}{{ $permitted = append $permitted (. | int64 | toString) }}{{ end -}}
{{- if and $policy.enabled (not $policy.extraEgress) (not (has $port $permitted)) }}
console.oidc.issuer: port {{ $port }} is not among networkPolicy.oidc.ports, {{ join ", " $permitted }}; the console could not reach it
{{- end -}}
{{- else -}}
{{- $found = merge $found (dict "console.proxy.userHeader" .proxy.userHeader "console.proxy.networks" .proxy.networks "console.tenants" .tenants) -}}
{{- range $name := list "clientId" "existingSecret" "tenantClaim" -}}
{{- if get $.Values.console.oidc $name }}
console.oidc.{{ $name }}: needs console.oidc.issuer
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name := keys $found | sortAlpha -}}
{{- if not (get $found $name) }}
{{ $name }}: must be given with console.enabled{{ if hasPrefix "console.proxy." $name }}, or console.oidc.issuer{{ end }}
{{- end -}}
{{- end -}}
{{- if eq (int64 $.Values.metrics.port) 8520 }}
metrics.port: 8520 is the port of the console's pages; permitted: another, such as 9464
{{- end -}}
{{- if or .ingress.enabled .gateway.parentRefs -}}
{{- range $host := .hosts -}}
{{- if regexMatch "^([0-9]+[.]){3}[0-9]+$" $host }}
console.hosts: {{ $host }} is an address; permitted with ingress.enabled or gateway.parentRefs: names
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .ingress.enabled .gateway.parentRefs }}
console: ingress.enabled and gateway.parentRefs are both given; permitted: one
{{- end -}}
{{- end -}}
{{- end }}

{{/* Secrets or keys that are missing, a line each: root. Where Helm cannot ask the cluster, it finds nothing wrong. */}}
{{- define "darkroom.check.secrets" -}}
{{- $root := . -}}
{{- $namespace := .Release.Namespace -}}
{{- if and .Values.checkSecrets (not .Values.devServices.enabled) (lookup "v1" "ServiceAccount" $namespace "default") -}}
{{- $scaler := "" -}}
{{- range $pool, $_ := .Values.workerPools -}}
{{- if (include "darkroom.pool" (list $root $pool) | fromYaml).autoscaling.enabled }}{{ $scaler = $root.Values.database.scalerKey | default $root.Values.database.keys.observer }}{{ end -}}
{{- end -}}
{{- /* A list, because one Secret may hold several. */ -}}
{{- $needed := list (dict "scaler" $scaler "secret" .Values.database.existingSecret "of" "database.existingSecret" "keys" (include "darkroom.database.keys" . | fromYaml | values | concat (list .Values.database.scalerKey) | compact | uniq)) -}}
{{- $needed = append $needed (dict "secret" .Values.broker.existingSecret "of" "broker.existingSecret" "keys" (list .Values.broker.key)) -}}
{{- if .Values.console.enabled -}}
{{- $needed = append $needed (dict "secret" .Values.console.existingSecret "of" "console.existingSecret" "keys" (list .Values.console.secretKey)) -}}
{{- with .Values.console.oidc -}}
{{- if and .issuer .existingSecret -}}
{{- $needed = append $needed (dict "secret" .existingSecret "of" "console.oidc.existingSecret" "keys" (list .secretKey)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with .Values.objectStore.existingSecret -}}
{{- $needed = append $needed (dict "secret" . "of" "objectStore.existingSecret" "keys" (values $root.Values.objectStore.keys)) -}}
{{- end -}}
{{- range $need := $needed -}}
{{- $name := $need.secret -}}
{{- $secret := lookup "v1" "Secret" $namespace $name -}}
{{- if not $secret }}
{{ $need.of }}: there is no Secret {{ quote $name }} in namespace {{ quote $namespace }}; create it, or set checkSecrets: false if something else will
{{- else -}}
{{- range $key := sortAlpha $need.keys -}}
{{- if not (hasKey ($secret.data | default dict) $key) }}
{{ $need.of }}: Secret {{ quote $name }} has no key {{ quote $key }}; it has {{ keys ($secret.data | default dict) | sortAlpha | join ", " | default "none" }}
{{- else if and $need.scaler (eq $key $need.scaler) (regexMatch "^\\s|\\s$" (get $secret.data $key | b64dec)) }}
{{ $need.of }}: key {{ quote $key }} of Secret {{ quote $name }} begins or ends with a space or a line feed, with which KEDA cannot connect; permitted: the URL alone
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Values that cannot change once the release is installed, a line each: root. */}}
{{- define "darkroom.check.fixed" -}}
{{- if .Release.IsUpgrade -}}
{{- $name := include "darkroom.fullname" . -}}
{{- $labels := include "darkroom.selector" . | fromYaml -}}
{{- $live := dig "spec" "selector" "matchLabels" dict (lookup "apps/v1" "Deployment" .Release.Namespace (printf "%s-dispatcher" $name) | default dict) -}}
{{- $was := get $live "app.kubernetes.io/name" -}}
{{- $is := get $labels "app.kubernetes.io/name" -}}
{{- if and $was (ne $was $is) }}
nameOverride: the selectors of the installed pods have the name {{ quote $was }} and cannot change to {{ quote $is }}; keep it, or change fullnameOverride too
{{- end -}}
{{- if .Values.devServices.enabled -}}
{{- range $service := list "postgres" "seaweedfs" -}}
{{- $claims := dig "spec" "volumeClaimTemplates" list (lookup "apps/v1" "StatefulSet" $.Release.Namespace (printf "%s-%s" $name $service) | default dict) -}}
{{- range $claims -}}
{{- $size := dig "spec" "resources" "requests" "storage" "" . -}}
{{- $wanted := (index $.Values.devServices $service).size -}}
{{- if ne (include "darkroom.amount" $size) (include "darkroom.amount" $wanted) }}
devServices.{{ $service }}.size: the installed volume has {{ $size }}, and a StatefulSet's volumes cannot change to {{ $wanted }}; keep it, and enlarge the claim itself
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}
