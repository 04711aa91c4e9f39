{{/*
The profiles. Each gets what every stage needs to pull the image and to reach S3: pull secrets, S3 secrets and variables,
proxies, and the CA bundle if it is in a ConfigMap. The database's URL is that of databaseRole. Own fields take precedence.
*/}}
{{- define "darkroom.training.profiles" -}}
{{- $secret := include "darkroom.objectStore.secret" . -}}
{{- $keys := .Values.objectStore.keys -}}
{{- $store := dict $keys.accessKeyId "DARKROOM_S3_ACCESS_KEY_ID" $keys.secretAccessKey "DARKROOM_S3_SECRET_ACCESS_KEY" -}}
{{- $variables := dict "DARKROOM_S3_BUCKET" .Values.objectStore.bucket "DARKROOM_S3_REGION" .Values.objectStore.region -}}
{{- with include "darkroom.objectStore.endpoint" . -}}
{{- $_ := set $variables "DARKROOM_S3_ENDPOINT_URL" . -}}
{{- end -}}
{{- range include "darkroom.env.common" . | fromYamlArray -}}
{{- if or (hasSuffix "_PROXY" .name) $.Values.caBundle.configMap }}{{ $_ := set $variables .name .value }}{{ end -}}
{{- end -}}
{{- $profiles := dict -}}
{{- range $name, $own := .Values.training.profiles -}}
{{- $profile := omit (deepCopy $own) "databaseRole" -}}
{{- $_ := set $profile "env" ($profile.env | default dict) -}}
{{- $secrets := deepCopy ($own.secrets | default dict) -}}
{{- $given := $own.env | default dict | keys -}}
{{- range $secrets }}{{ $given = concat $given (values .) }}{{ end -}}
{{- $login := dict -}}
{{- with $own.databaseRole }}{{ $login = dict (get $.Values.database.keys .) "DARKROOM_DATABASE_URL" }}{{ end -}}
{{- range $pair := list (list $.Values.database.existingSecret $login) (list $secret $store) -}}
{{- range $key, $variable := ternary (index $pair 1) dict (not (empty (index $pair 0))) -}}
{{- if not (has $variable $given) -}}
{{- $secrets = merge $secrets (dict (index $pair 0) (dict $key $variable)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $variable, $value := $variables -}}
{{- if not (has $variable $given) }}{{ $_ := set ($profile.env) $variable $value }}{{ end -}}
{{- end -}}
{{- with $secrets }}{{ $_ := set $profile "secrets" . }}{{ end -}}
{{- with concat ($own.imagePullSecrets | default list) ($.Values.global.imagePullSecrets | default list) | uniq -}}
{{- $_ := set $profile "imagePullSecrets" . -}}
{{- end -}}
{{- with $.Values.caBundle.configMap -}}
{{- $_ := set $profile "configMaps" (merge (deepCopy ($own.configMaps | default dict)) (dict . "/etc/darkroom/ca")) -}}
{{- end -}}
{{- $_ := set $profiles $name $profile -}}
{{- end -}}
{{ toYaml $profiles }}
{{- end }}
