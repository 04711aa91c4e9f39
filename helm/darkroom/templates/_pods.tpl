{{/*
The shape of every pod of the chart. A template gives what is special about a pod; this adds image, security, metadata,
scheduling, CA bundle, proxies, and the fields that podDefaults and a component's values have.

Arguments: root, component, values (of the component), path (of the values, for messages), account, spec (of the pod, as
an object), tmp (size of /tmp), claims (names of a StatefulSet's volumes). A container with `full: true` runs the full
image, others the slim one.
*/}}
{{- define "darkroom.podTemplate" -}}
{{- $root := .root -}}
{{- $own := include "darkroom.pod.fields" (list $root .values) | fromYaml -}}
{{- $spec := deepCopy .spec -}}
{{- $common := include "darkroom.env.common" $root | fromYamlArray -}}
{{- $trust := include "darkroom.caBundle.volume" $root | fromYamlArray -}}
{{- $security := mergeOverwrite (deepCopy $root.Values.containerSecurityContext) (deepCopy ($own.containerSecurityContext | default dict)) -}}
{{- $image := $own.image | default dict -}}
{{- $slim := include "darkroom.pod.image" (list $root.Values.slimImage (ternary dict $image (eq .component "worker"))) | fromYaml -}}
{{- $full := include "darkroom.pod.image" (list $root.Values.image $image) | fromYaml -}}
{{- range $list := list "initContainers" "containers" -}}
{{- $containers := list -}}
{{- range $container := get $spec $list | default list -}}
{{- $image := ternary $full $slim (hasKey $container "full") -}}
{{- $env := concat ($container.env | default list) $common -}}
{{- $names := list -}}
{{- range $env }}{{ $names = append $names .name }}{{ end -}}
{{- range $own.extraEnv -}}
{{- if has .name $names }}{{ fail (printf "\n\n%s.extraEnv: %s has a value of its own in this chart\n" (ternary "podDefaults" $.path (has . $root.Values.podDefaults.extraEnv)) .name) }}{{ end -}}
{{- end -}}
{{- $mounts := concat (list (dict "name" "tmp" "mountPath" "/tmp")) ($container.volumeMounts | default list) -}}
{{- if $trust }}{{ $mounts = append $mounts (dict "name" "ca-bundle" "mountPath" "/etc/darkroom/ca" "readOnly" true) }}{{ end -}}
{{- $complete := omit (deepCopy $container) "full" -}}
{{- if not $container.image -}}
{{- $_ := set $complete "image" (include "darkroom.image" (list $root $image)) -}}
{{- $_ := set $complete "imagePullPolicy" $image.pullPolicy -}}
{{- end -}}
{{- $_ := set $complete "securityContext" $security -}}
{{- $_ := set $complete "env" (concat $env ($own.extraEnv | default list)) -}}
{{- $_ := set $complete "envFrom" ($own.extraEnvFrom | default list) -}}
{{- $_ := set $complete "volumeMounts" (concat $mounts ($own.extraVolumeMounts | default list)) -}}
{{- $containers = append $containers (include "darkroom.present" $complete | fromYaml) -}}
{{- end -}}
{{- $_ := set $spec $list $containers -}}
{{- end -}}
{{- /* Sidecars first, so that a proxy serves the init containers too; Kubernetes ends them when a Job is done. */ -}}
{{- $before := list -}}
{{- range $own.sidecars -}}
{{- $before = append $before (mergeOverwrite (dict "securityContext" (deepCopy $security)) (deepCopy .) (dict "restartPolicy" "Always")) -}}
{{- end -}}
{{- range $own.extraInitContainers -}}
{{- $before = append $before (mergeOverwrite (dict "securityContext" (deepCopy $security)) (deepCopy .)) -}}
{{- end -}}
{{- $_ := set $spec "initContainers" (concat $before ($spec.initContainers | default list)) -}}
{{- $tmp := list (dict "name" "tmp" "emptyDir" (dict "sizeLimit" (.tmp | default "100Mi"))) -}}
{{- $_ := set $spec "volumes" (concat $tmp ($spec.volumes | default list) $trust ($own.extraVolumes | default list)) -}}
{{- $_ := set $spec "automountServiceAccountToken" false -}}
{{- $_ := set $spec "enableServiceLinks" false -}}
{{- $_ := set $spec "serviceAccountName" (.account | default "") -}}
{{- $secrets := list -}}
{{- range concat ($root.Values.global.imagePullSecrets | default list) ($own.imagePullSecrets | default list) | uniq -}}
{{- $secrets = append $secrets (dict "name" .) -}}
{{- end -}}
{{- $_ := set $spec "imagePullSecrets" $secrets -}}
{{- $_ := set $spec "securityContext" (mergeOverwrite (deepCopy $root.Values.podSecurityContext) (deepCopy ($own.podSecurityContext | default dict))) -}}
{{- range $field := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" "priorityClassName" "runtimeClassName" "schedulerName" "hostAliases" "dnsPolicy" "dnsConfig" -}}
{{- if get $own $field }}{{ $_ := set $spec $field (get $own $field) }}{{ end -}}
{{- end -}}
{{- $selector := merge (dict "app.kubernetes.io/component" .component) (include "darkroom.selector" $root | fromYaml) (pick (.values.podLabels | default dict) "darkroom/pool") -}}
{{- range $spec.topologySpreadConstraints -}}
{{- /* A constraint without a selector would count no pod. */ -}}
{{- if not .labelSelector }}{{ $_ := set . "labelSelector" (dict "matchLabels" $selector) }}{{ end -}}
{{- end -}}
{{- $ownFields := pick .values "extraEnv" "extraEnvFrom" "extraVolumes" "extraVolumeMounts" "extraInitContainers" "sidecars" "hostAliases" "dnsPolicy" "dnsConfig" -}}
{{- with include "darkroom.check.pod" (list (ternary "podDefaults" .path (empty $ownFields)) $spec (.claims | default list)) | trim }}{{ fail (printf "\n\n%s\n" .) }}{{ end -}}
metadata:
  {{- include "darkroom.pod.metadata" (list $root .component $own) | nindent 2 }}
spec:
  {{- include "darkroom.present" $spec | nindent 2 }}
{{- end }}

{{/* An image's values with a component's differences, as YAML: [common, own]. Its tag takes the place of the common digest. */}}
{{- define "darkroom.pod.image" -}}
{{- $common := index . 0 -}}
{{- $own := index . 1 -}}
{{- if $own.tag }}{{ $common = omit $common "digest" }}{{ end -}}
{{ mergeOverwrite (deepCopy $common) (deepCopy $own) | toYaml }}
{{- end }}

{{/* A component's fields over those of podDefaults, as YAML: [root, values]. Lists are added to, maps merged, others replaced. */}}
{{- define "darkroom.pod.fields" -}}
{{- $defaults := (index . 0).Values.podDefaults -}}
{{- $own := index . 1 -}}
{{- $fields := deepCopy $own -}}
{{- range $field, $common := $defaults -}}
{{- $mine := index $own $field -}}
{{- if has $field (list "imagePullSecrets" "extraEnvFrom" "hostAliases") -}}
{{- $_ := set $fields $field (concat $common ($mine | default list)) -}}
{{- else if has $field (list "extraEnv" "extraVolumes" "extraVolumeMounts" "extraInitContainers" "sidecars") -}}
{{- /* One with the same name, or the same path, takes the place of the common one. */ -}}
{{- $key := ternary "mountPath" "name" (eq $field "extraVolumeMounts") -}}
{{- $taken := list -}}
{{- range $mine }}{{ $taken = append $taken (get . $key) }}{{ end -}}
{{- $kept := list -}}
{{- range $common }}{{ if not (has (get . $key) $taken) }}{{ $kept = append $kept . }}{{ end }}{{ end -}}
{{- $_ := set $fields $field (concat $kept ($mine | default list)) -}}
{{- else if has $field (list "podLabels" "podAnnotations") -}}
{{- $_ := set $fields $field (mergeOverwrite (deepCopy $common) (deepCopy ($mine | default dict))) -}}
{{- else if not (hasKey $own $field) -}}
{{- $_ := set $fields $field $common -}}
{{- end -}}
{{- end -}}
{{ toYaml $fields }}
{{- end }}

{{/* An object without its empty fields, which an API server would drop: later comparisons would never find it unchanged. */}}
{{- define "darkroom.present" -}}
{{- $present := dict -}}
{{- range $key, $value := . -}}
{{- if or $value (kindIs "bool" $value) (kindIs "float64" $value) (kindIs "int" $value) (kindIs "int64" $value) -}}
{{- $_ := set $present $key $value -}}
{{- end -}}
{{- end -}}
{{ toYaml $present }}
{{- end }}

{{/* Labels and annotations of a pod: [root, component, its fields]. Labels of the selector cannot be replaced. */}}
{{- define "darkroom.pod.metadata" -}}
{{- $root := index . 0 -}}
{{- $fields := index . 2 -}}
{{- $selector := include "darkroom.selector" $root | fromYaml -}}
{{- $_ := set $selector "app.kubernetes.io/component" (index . 1) -}}
{{- $part := dict "app.kubernetes.io/part-of" "darkroom" -}}
labels:
  {{- merge $selector ($fields.podLabels | default dict) $root.Values.commonLabels $part | toYaml | nindent 2 }}
{{- $version := include "darkroom.text" $root.Values.secretsVersion }}
{{- $version = ternary (dict "darkroom/secrets-version" $version) dict (ne $version "") }}
{{- with merge (deepCopy ($fields.podAnnotations | default dict)) $root.Values.commonAnnotations $version }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Variables of every container: proxies, and where libraries find the CA bundle. */}}
{{- define "darkroom.env.common" -}}
{{- $proxy := .Values.proxy -}}
{{- $direct := ternary (printf "%s,.%s" $proxy.noProxy .Release.Namespace) $proxy.noProxy .Values.devServices.enabled -}}
{{- $direct = ternary $direct "" (not (empty (coalesce $proxy.http $proxy.https))) -}}
{{- range $name, $value := dict "HTTP_PROXY" $proxy.http "HTTPS_PROXY" $proxy.https "NO_PROXY" $direct }}
{{- if $value }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}
{{- if or .Values.caBundle.configMap .Values.caBundle.secret }}
{{- range list "AWS_CA_BUNDLE" "PGSSLROOTCERT" "REQUESTS_CA_BUNDLE" "SSL_CERT_FILE" }}
- {name: {{ . }}, value: {{ printf "/etc/darkroom/ca/%s" $.Values.caBundle.key | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{/* The volume of the CA bundle, in a list that is empty if there is none. */}}
{{- define "darkroom.caBundle.volume" -}}
{{- with .Values.caBundle }}
{{- if .configMap }}
- name: ca-bundle
  configMap: {name: {{ .configMap | quote }}, items: [{key: {{ .key | quote }}, path: {{ .key | quote }}}]}
{{- else if .secret }}
- name: ca-bundle
  secret: {secretName: {{ .secret | quote }}, items: [{key: {{ .key | quote }}, path: {{ .key | quote }}}]}
{{- end }}
{{- end }}
{{- end }}

{{/* Init container that waits for a schema that works with this version: [root, role, resources]. */}}
{{- define "darkroom.wait" -}}
name: wait-for-database
args: [db, wait]
env:
  {{- include "darkroom.env.database" (list (index . 0) (index . 1)) | nindent 2 }}
resources:
  {{- toYaml (index . 2) | nindent 2 }}
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
