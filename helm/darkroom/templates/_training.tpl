{{/* The profiles. Each gets the S3 secrets and variables that every stage needs; its own take precedence. */}}
{{- define "darkroom.training.profiles" -}}
{{- $secret := include "darkroom.objectStore.secret" . -}}
{{- $keys := .Values.objectStore.keys -}}
{{- $store := dict $keys.accessKeyId "DARKROOM_S3_ACCESS_KEY_ID" $keys.secretAccessKey "DARKROOM_S3_SECRET_ACCESS_KEY" -}}
{{- $variables := dict "DARKROOM_S3_BUCKET" .Values.objectStore.bucket "DARKROOM_S3_REGION" .Values.objectStore.region -}}
{{- with include "darkroom.objectStore.endpoint" . -}}
{{- $_ := set $variables "DARKROOM_S3_ENDPOINT_URL" . -}}
{{- end -}}
{{- $profiles := dict -}}
{{- range $name, $own := .Values.training.profiles -}}
{{- $profile := deepCopy $own -}}
{{- $_ := set $profile "env" (merge (deepCopy ($own.env | default dict)) $variables) -}}
{{- if $secret -}}
{{- $_ := set $profile "secrets" (merge (deepCopy ($own.secrets | default dict)) (dict $secret $store)) -}}
{{- end -}}
{{- $_ := set $profiles $name $profile -}}
{{- end -}}
{{ toYaml $profiles }}
{{- end }}
