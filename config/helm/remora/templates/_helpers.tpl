{{- define "remora.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* 56, since "-admin" is added. */}}
{{- define "remora.fullname" -}}
{{- $name := include "remora.name" . }}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- /* The name of a release may have dots, that of a Service may not. */}}
{{- default $full .Values.fullnameOverride | replace "." "-" | trunc 56 | trimSuffix "-" }}
{{- end }}

{{- define "remora.selector" -}}
app.kubernetes.io/name: {{ include "remora.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "remora.labels" -}}
{{ include "remora.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "remora.emqxNamespace" -}}
{{- default .Release.Namespace .Values.emqx.namespace }}
{{- end }}

{{- define "remora.emqxDomain" -}}
{{- printf "%s.svc.%s" (include "remora.emqxNamespace" .) .Values.emqx.clusterDomain }}
{{- end }}

{{- /* What the schema cannot say. */}}
{{- define "remora.refuse" -}}
{{- if not (regexMatch "^[a-z]" (include "remora.fullname" .)) }}
{{- fail (printf "the name of a Service begins with a letter, and not as %s: set fullnameOverride" (include "remora.fullname" .)) }}
{{- end }}
{{- $names := dict }}
{{- $ports := dict (toString (int64 .Values.admin.port)) "admin" }}
{{- range .Values.listeners }}
{{- $port := toString (int64 .port) }}
{{- if hasKey $names .name }}{{ fail (printf "listeners: two are called %s" .name) }}{{ end }}
{{- if hasKey $ports $port }}{{ fail (printf "listeners: %s has port %s, as %s has" .name $port (get $ports $port)) }}{{ end }}
{{- if and (ne (default "off" .clientCertificates) "off") (not .tlsSecret) }}
{{- fail (printf "listeners: %s wants client certificates without a tlsSecret" .name) }}
{{- end }}
{{- $_ := set $names .name true }}
{{- $_ := set $ports $port .name }}
{{- end }}
{{- if and (eq .Values.emqx.discovery "api") (not .Values.emqx.apiKeySecret) }}
{{- fail "emqx.discovery: \"api\" needs a key of the API: emqx.apiKeySecret" }}
{{- end }}
{{- end }}

{{- /* The configuration. A string of JSON is one of TOML. */}}
{{- define "remora.config" -}}
{{- include "remora.refuse" . }}
{{- $emqx := .Values.emqx -}}
{{- if .Values.extraConfig }}
include = ["extra.toml"]
{{ end }}
{{- with .Values.workers }}
workers = {{ int64 . }}
{{ end }}
{{- range .Values.listeners }}
[[listeners]]
name = {{ toJson .name }}
address = "0.0.0.0:{{ int64 .port }}"
transport = {{ toJson (default "tcp" .transport) }}
{{- with .tlsSecret }}
tls = "end"
certificates = [{ chain = "/etc/remora-tls/{{ . }}/tls.crt", key = "/etc/remora-tls/{{ . }}/tls.key" }]
{{- end }}
{{- if and .tlsSecret .clientCertificates (ne .clientCertificates "off") }}
client_certificates = {{ toJson .clientCertificates }}
client_ca = "/etc/remora-tls/{{ .tlsSecret }}/ca.crt"
{{- end }}
{{- with .extra }}
{{ . | trim }}
{{- end }}
{{ end }}
{{- if $emqx.nodes }}
{{ $emqx.nodes | trim }}
{{- else }}
[[nodes]]
address = "{host}:{{ int64 $emqx.ports.mqtt }}"
proxy_protocol = {{ toJson $emqx.proxyProtocol }}
ws = "{host}:{{ int64 $emqx.ports.ws }}"
ws_proxy_protocol = {{ toJson $emqx.proxyProtocol }}
{{- if ne $emqx.check "off" }}
api = "http://{host}:{{ int64 $emqx.ports.api }}"
{{- end }}
{{- end }}
{{- $asksApi := or (ne $emqx.check "off") (eq $emqx.discovery "api") }}
{{- if $asksApi }}

[nodes_api]
{{- if ne $emqx.check "off" }}
check = {{ toJson $emqx.check }}
{{- end }}
{{- if $emqx.apiKeySecret }}
credentials = "/etc/remora-api/credentials"
{{- end }}
{{- end }}

[discovery]
{{- if eq $emqx.discovery "api" }}
source = "emqx"
seeds = [{{ printf "http://%s.%s:%d" $emqx.apiService (include "remora.emqxDomain" .) (int64 $emqx.ports.api) | toJson }}]
{{- else }}
source = "dns"
name = {{ printf "_%s._tcp.%s.%s" $emqx.headlessPortName $emqx.headlessService (include "remora.emqxDomain" .) | toJson }}
{{- end }}
{{- with .Values.seed }}

[affinity]
seed = {{ . }}
{{- end }}

[drain]
delay = "{{ int64 .Values.drain.delaySeconds }}s"
rate = {{ int64 .Values.drain.rate }}
grace = "{{ int64 .Values.drain.graceSeconds }}s"

[admin]
address = "0.0.0.0:{{ int64 .Values.admin.port }}"
socket = "/run/remora/admin.sock"

[log]
output = "stdout"
format = {{ toJson .Values.log.format }}
connections = {{ toJson .Values.log.connections }}
{{ end }}

{{- /* The Secrets of all listeners, each once. */}}
{{- define "remora.tlsSecrets" -}}
{{- $names := list }}
{{- range .Values.listeners }}{{ with .tlsSecret }}{{ $names = append $names . }}{{ end }}{{ end }}
{{- $names | uniq | toJson }}
{{- end }}
