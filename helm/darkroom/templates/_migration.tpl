{{/* The pod template. The Job's name contains a hash of it. */}}
{{- define "darkroom.migration.pod" -}}
{{- $values := .Values.migration -}}
metadata:
  {{- include "darkroom.pod.metadata" (list . "migration" $values) | nindent 2 }}
spec:
  {{- include "darkroom.pod" (list . "migration" $values (printf "%s-migration" (include "darkroom.fullname" .))) | nindent 2 }}
  restartPolicy: OnFailure
  initContainers:
    - {{ include "darkroom.container" (list . .Values.slimImage "schema") | indent 6 | trim }}
      args: [db, upgrade]
      {{- include "darkroom.migration.rest" . | nindent 6 }}
    {{- if $values.logins }}
    - {{ include "darkroom.container" (list . .Values.slimImage "logins") | indent 6 | trim }}
      args: [db, set-logins]
      {{- include "darkroom.migration.rest" . | nindent 6 }}
    {{- end }}
  containers:
    - {{ include "darkroom.container" (list . .Values.slimImage "queues") | indent 6 | trim }}
      args: [queues, add, {{ join ", " .Values.queues }}]
      {{- include "darkroom.migration.rest" . | nindent 6 }}
  volumes:
    - name: tmp
      emptyDir: {sizeLimit: 100Mi}
    {{- if $values.logins }}
    - name: logins
      secret:
        secretName: {{ .Values.database.existingSecret }}
        defaultMode: 288  # r--r-----
        items:
          {{- range $role, $key := omit .Values.database.keys "migrator" }}
          - {key: {{ $key }}, path: {{ $role }}}
          {{- end }}
    {{- end }}
{{- end }}

{{/* Environment and resources of the migration's containers. */}}
{{- define "darkroom.migration.rest" -}}
env:
  {{- include "darkroom.env.database" (list . "migrator") | nindent 2 }}
  {{- if .Values.migration.logins }}
  - {name: DARKROOM_LOGINS_DIR, value: /etc/darkroom/logins}
  {{- end }}
  {{- with .Values.migration.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
resources:
  {{- toYaml .Values.migration.resources | nindent 2 }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  {{- if .Values.migration.logins }}
  - {name: logins, mountPath: /etc/darkroom/logins, readOnly: true}
  {{- end }}
{{- end }}
