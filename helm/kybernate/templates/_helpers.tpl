{{- define "kybernate.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 }}{{ end }}
{{- end }}

{{- define "kybernate.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* (list . "node"): what selects the pods of one part */}}
{{- define "kybernate.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "kybernate.image" -}}
{{- $repository := required "image.repository: the image that you have built from the Containerfile and pushed" .Values.image.repository -}}
{{ $repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "kybernate.temporalAddress" -}}
{{- if .Values.temporal.embedded.enabled -}}
{{ include "kybernate.name" . }}-temporal.{{ .Release.Namespace }}.svc:7233
{{- else -}}
{{ required "temporal.address: host:port of your Temporal server; temporal.embedded.enabled=true for a try" .Values.temporal.address }}
{{- end -}}
{{- end }}

{{/*
TCP ports that sidecar and control must reach, with blanks between: those of the addresses that the values give, and those of
networkPolicy.egress. Without a secret they ask for keys of the store: STS, or by http an agent of the node.
*/}}
{{- define "kybernate.egressPorts" -}}
{{- $ports := list (include "kybernate.temporalAddress" . | splitList ":" | last) -}}
{{- if hasPrefix "s3://" .Values.store.url -}}
{{- with .Values.store.s3 -}}
{{- $ports = append $ports (include "kybernate.urlPort" (.endpoint | default "https://s3")) -}}
{{- $ports = concat $ports (ternary (list 443 80) list (empty .existingSecret)) -}}
{{- end -}}
{{- end -}}
{{- with .Values.tracing.endpoint -}}
{{- $ports = append $ports (include "kybernate.urlPort" .) -}}
{{- end -}}
{{- with .Values.networkPolicy.egress -}}
{{- $ports = concat $ports .temporalPorts .storePorts .tracingPorts -}}
{{- end -}}
{{- $numbers := list -}}
{{- range $ports -}}
{{- $numbers = append $numbers (int .) -}}
{{- end -}}
{{- $numbers | uniq | join " " -}}
{{- end }}

{{/* of an http or https URL; that of its scheme where it names none */}}
{{- define "kybernate.urlPort" -}}
{{- $host := (urlParse .).host -}}
{{- regexFind ":[0-9]+$" $host | trimPrefix ":" | default (ternary "443" "80" (hasPrefix "https:" .)) -}}
{{- end }}

{{/* Certificates by value: the node worker leaves the mount namespace of its pod. */}}
{{- define "kybernate.temporalEnv" -}}
- name: TEMPORAL_ADDRESS
  value: {{ include "kybernate.temporalAddress" . | quote }}
- name: TEMPORAL_NAMESPACE
  value: {{ .Values.temporal.namespace | quote }}
{{- with .Values.temporal.tls }}
{{- if or .enabled .existingSecret }}
- name: TEMPORAL_TLS
  value: 'true'
{{- end }}
{{- if .serverName }}
- name: TEMPORAL_TLS_SERVER_NAME
  value: {{ .serverName | quote }}
{{- end }}
{{- if .existingSecret }}
- name: TEMPORAL_TLS_CLIENT_CERT_DATA
  valueFrom: { secretKeyRef: { name: {{ .existingSecret | quote }}, key: tls.crt } }
- name: TEMPORAL_TLS_CLIENT_KEY_DATA
  valueFrom: { secretKeyRef: { name: {{ .existingSecret | quote }}, key: tls.key } }
- name: TEMPORAL_TLS_SERVER_CA_CERT_DATA
  valueFrom: { secretKeyRef: { name: {{ .existingSecret | quote }}, key: ca.crt, optional: true } }
{{- end }}
{{- end }}
{{- with .Values.temporal.apiKey.existingSecret }}
- name: TEMPORAL_API_KEY
  valueFrom: { secretKeyRef: { name: {{ . | quote }}, key: {{ $.Values.temporal.apiKey.key | quote }} } }
{{- end }}
{{- end }}

{{- define "kybernate.storeEnv" -}}
- name: KYBERNATE_STORE
  value: {{ required "store.url: s3://bucket[/prefix]" .Values.store.url | quote }}
- name: KYBERNATE_S3_REGION
  value: {{ .Values.store.s3.region | quote }}
{{- with .Values.store.s3.endpoint }}
- name: KYBERNATE_S3_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- with .Values.store.s3.existingSecret }}
- name: AWS_ACCESS_KEY_ID
  valueFrom: { secretKeyRef: { name: {{ . | quote }}, key: accessKeyId } }
- name: AWS_SECRET_ACCESS_KEY
  valueFrom: { secretKeyRef: { name: {{ . | quote }}, key: secretAccessKey } }
{{- end }}
{{- end }}

{{/* of every process */}}
{{- define "kybernate.commonEnv" -}}
- name: KYBERNATE_LOG_LEVEL
  value: {{ .Values.logLevel | quote }}
{{- if .Values.metrics.enabled }}
- name: KYBERNATE_METRICS_ADDRESS
  value: {{ printf "0.0.0.0:%v" .Values.metrics.port | quote }}
{{- end }}
{{- end }}

{{/* of every process that has a part in a trace */}}
{{- define "kybernate.tracingEnv" -}}
{{- with .Values.tracing }}
{{- if .endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ .endpoint | quote }}
{{- with .headers.existingSecret }}
- name: OTEL_EXPORTER_OTLP_HEADERS
  valueFrom: { secretKeyRef: { name: {{ . | quote }}, key: {{ $.Values.tracing.headers.key | quote }} } }
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The worker sees the copies that kybernate-on-host makes of the pod's files. */}}
{{- define "kybernate.signingEnv" -}}
{{- with .Values.signing }}
{{- if .existingSecret }}
- name: KYBERNATE_SIGNING_KEY
  value: {{ $.Values.host.runDir }}/keys/signing/signing.pem
{{- end }}
{{- if .trustedConfigMap }}
- name: KYBERNATE_TRUSTED_KEYS
  value: {{ $.Values.host.runDir }}/keys/trusted
{{- end }}
- name: KYBERNATE_SIGNATURES
  value: {{ .mode | quote }}
{{- end }}
{{- end }}

{{- define "kybernate.restoreGrantsEnv" -}}
{{- with .Values.restore.grants }}
{{- $grants := list }}
{{- range . }}
{{- $grants = append $grants (printf "%s=%s" .to .from) }}
{{- end }}
- name: KYBERNATE_RESTORE_GRANTS
  value: {{ join "," $grants | quote }}
{{- end }}
{{- end }}

{{- define "kybernate.nodeNameEnv" -}}
- name: KYBERNATE_NODE
  valueFrom: { fieldRef: { fieldPath: spec.nodeName } }
{{- end }}

{{/* (list . offset): pods that share the network of the node need ports of their own */}}
{{- define "kybernate.metricsPort" -}}
{{- if .Values.metrics.enabled }}
ports:
  - name: metrics
    containerPort: {{ .Values.metrics.port }}
{{- end }}
{{- end }}

{{- define "kybernate.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* As a variable, so that it needs no quotes of ours. */}}
{{- define "kybernate.restart" -}}
nsenter --target {{ .Values.host.pid }} --mount --uts --ipc --net --pid -- sh -c "$RESTART_COMMAND"
{{- end }}

{{/* Asks the agent, in the mount namespace of the node: there the worker is. */}}
{{- define "kybernate.agentProbe" -}}
exec:
  command:
    - {{ .Values.host.installDir }}/current/bin/node
    - -e
    - >-
      require('http').get({socketPath: process.env.KYBERNATE_RUN_DIR + '/agent.sock', path: '/v1/health',
      timeout: 5000}, (r) => process.exit(r.statusCode === 200 ? 0 : 1)).on('error', () => process.exit(1))
timeoutSeconds: 10
{{- end }}

{{/* does the sidecar answer at its socket? */}}
{{- define "kybernate.sidecarProbe" -}}
exec:
  command:
    - node
    - -e
    - >-
      require('http').get({socketPath: process.env.KYBERNATE_RUN_DIR + '/sidecar/transfer-http.sock',
      path: '/v1/transfers', timeout: 5000}, (r) => process.exit(r.statusCode === 200 ? 0 : 1))
      .on('error', () => process.exit(1))
timeoutSeconds: 10
{{- end }}

{{/* paths of the node that its installer needs, under their own names */}}
{{- define "kybernate.installerMounts" -}}
- { name: install, mountPath: {{ .Values.host.installDir | quote }} }
- { name: containerd-config, mountPath: {{ dir .Values.host.containerd.config | quote }} }
- { name: containerd-socket, mountPath: {{ dir .Values.host.containerd.address | quote }} }
{{- end }}

{{- define "kybernate.installerVolumes" -}}
- name: install
  hostPath: { path: {{ .Values.host.installDir | quote }}, type: DirectoryOrCreate }
- name: containerd-config
  hostPath: { path: {{ dir .Values.host.containerd.config | quote }}, type: DirectoryOrCreate }
- name: containerd-socket
  hostPath: { path: {{ dir .Values.host.containerd.address | quote }}, type: Directory }
{{- end }}
