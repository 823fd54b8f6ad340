{{/* Labels of everything. Not managed-by=toygres: that marks what instances are made of. */}}
{{- define "toygres.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/name: toygres
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* What chooses the pods of a component. Called with (list $ "api"). */}}
{{- define "toygres.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: toygres
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Every namespace of instances, as a JSON list. */}}
{{- define "toygres.namespaces" -}}
{{- prepend .Values.instances.allowedNamespaces .Values.instances.namespace | uniq | toJson -}}
{{- end }}

{{/* A map as key=value,key=value. Called with (list name map). */}}
{{- define "toygres.pairs" -}}
{{- $name := index . 0 -}}
{{- $pairs := list -}}
{{- range $key, $value := index . 1 -}}
{{- if contains "," $value }}{{ fail (printf "%s: the value of %s must not have a comma" $name $key) }}{{ end -}}
{{- $pairs = append $pairs (printf "%s=%s" $key $value) -}}
{{- end -}}
{{- join "," $pairs -}}
{{- end }}

{{/* Refuses what can't work, before anything is made. */}}
{{- define "toygres.check" -}}
{{- if not .Values.image.repository -}}
{{- fail "image.repository is not set: build the image (deploy/README.md), push it to a registry, and name it" -}}
{{- end -}}
{{- $secrets := .Values.secrets -}}
{{- if not $secrets.databaseUrl.name -}}
{{- fail "secrets.databaseUrl.name is not set: name the secret with the URL of the control database (deploy/README.md)" -}}
{{- end -}}
{{- if not $secrets.masterKey.name -}}
{{- fail "secrets.masterKey.name is not set: name the secret with the key that encrypts stored passwords (deploy/README.md)" -}}
{{- end -}}
{{- if and $secrets.bootstrapToken.enabled (not $secrets.bootstrapToken.name) -}}
{{- fail "secrets.bootstrapToken.name is not set: name the secret with the first token, or set secrets.bootstrapToken.enabled=false once there are other tokens" -}}
{{- end -}}
{{- if and .Values.tls.secretName .Values.tls.terminated -}}
{{- fail "tls.secretName and tls.terminated exclude each other: either the API does TLS or a proxy in front does" -}}
{{- end -}}
{{- if not (or .Values.tls.secretName .Values.tls.terminated) -}}
{{- fail "the API does not serve tokens and passwords in the clear: set tls.secretName, or tls.terminated=true behind an ingress or mesh that does TLS" -}}
{{- end -}}
{{- if has .Release.Namespace (include "toygres.namespaces" . | fromJsonArray) -}}
{{- fail (printf "the release's namespace %s can't be a namespace of instances: toygres reads and deletes secrets there, and its own must be out of reach" .Release.Namespace) -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) -}}
{{- fail "ingress.host is not set" -}}
{{- end -}}
{{- end }}

{{/*
All that a component does in a namespace of instances; deploy/README.md says why. The program checks at its start that
it may do just this (toygres-platform/src/kubernetes/access.rs). Called with "api" or "worker".
*/}}
{{- define "toygres.rules" -}}
# What instances are made of. Watches see what is there and what fails.
- apiGroups: [""]
  resources: [persistentvolumeclaims, pods, secrets, services]
  verbs: [list, watch, delete]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [list, watch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list, watch, delete]
- apiGroups: [""]
  resources: [events]
  verbs: [list, watch]
{{- if eq . "api" }}
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
{{- else }}
# Server-side apply creates and patches; claims and secrets are read before they are touched.
- apiGroups: [""]
  resources: [persistentvolumeclaims, secrets]
  verbs: [get, create, patch]
- apiGroups: [""]
  resources: [services]
  verbs: [create, patch]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [create, patch]
{{- end }}
{{- end }}

{{/* The environment of a component. Called with (list $ "api"). */}}
{{- define "toygres.environment" -}}
{{- $component := index . 1 -}}
{{- with index . 0 -}}
{{- $instances := .Values.instances -}}
{{- $environment := dict
    "TOYGRES_HOME" "/var/lib/toygres"
    "TOYGRES_LISTEN" "0.0.0.0:8080"
    "TOYGRES_PLATFORM" "kubernetes"
    "TOYGRES_SHUTDOWN_GRACE_SECONDS" (.Values.shutdownGraceSeconds | int | toString)
    "RUST_LOG" .Values.logFilter
    "OTEL_EXPORTER_OTLP_ENDPOINT" .Values.telemetry.endpoint
    "TOYGRES_KUBERNETES_NAMESPACE" $instances.namespace
    "TOYGRES_KUBERNETES_ALLOWED_NAMESPACES" (join "," $instances.allowedNamespaces)
    "TOYGRES_KUBERNETES_CONTROL_PLANE_NAMESPACE" .Release.Namespace
    "TOYGRES_KUBERNETES_IMAGE" $instances.image.repository
    "TOYGRES_KUBERNETES_IMAGE_DIGESTS" (include "toygres.pairs" (list "instances.image.digests" $instances.image.digests))
    "TOYGRES_KUBERNETES_IMAGE_PULL_SECRET" $instances.image.pullSecret
    "TOYGRES_KUBERNETES_VERSIONS" (join "," $instances.versions)
    "TOYGRES_KUBERNETES_STORAGE_CLASS" $instances.storageClass
    "TOYGRES_KUBERNETES_DEFAULT_CPU" $instances.defaultCpu
    "TOYGRES_KUBERNETES_DEFAULT_MEMORY_MB" ($instances.defaultMemoryMb | int | toString)
    "TOYGRES_KUBERNETES_SERVICE_ANNOTATIONS" (include "toygres.pairs" (list "instances.serviceAnnotations" $instances.serviceAnnotations))
    "TOYGRES_KUBERNETES_NODE_SELECTOR" (include "toygres.pairs" (list "instances.nodeSelector" $instances.nodeSelector))
    "TOYGRES_KUBERNETES_ALLOWED_SOURCES" (join "," $instances.allowedSources)
    "TOYGRES_KUBERNETES_CLUSTER_DOMAIN" $instances.clusterDomain
    "TOYGRES_KUBERNETES_ADDRESS" $instances.address
-}}
{{- if eq $component "api" -}}
{{- $_ := set $environment "TOYGRES_SHUTDOWN_DELAY_SECONDS" (.Values.api.shutdownDelaySeconds | int | toString) -}}
{{- end -}}
{{- if .Values.tls.terminated -}}
{{- $_ := set $environment "TOYGRES_TLS_TERMINATED" "true" -}}
{{- else -}}
{{- $_ := set $environment "TOYGRES_TLS_CERTIFICATE_FILE" "/etc/toygres/tls/tls.crt" -}}
{{- $_ := set $environment "TOYGRES_TLS_KEY_FILE" "/etc/toygres/tls/tls.key" -}}
{{- end -}}
{{- if .Values.secrets.bootstrapToken.enabled -}}
{{- $_ := set $environment "TOYGRES_BOOTSTRAP_TOKEN_FILE" "/etc/toygres/bootstrap-token/token" -}}
{{- end -}}
{{- range $name, $value := merge $environment .Values.settings }}
{{- if $value }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
- name: DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.secrets.databaseUrl.name | quote }}
      key: {{ .Values.secrets.databaseUrl.key | quote }}
- name: TOYGRES_MASTER_KEY
  valueFrom:
    secretKeyRef:
      name: {{ .Values.secrets.masterKey.name | quote }}
      key: {{ .Values.secrets.masterKey.key | quote }}
{{- end }}
{{- end }}

{{/* Called with (list name path): a probe of the server. */}}
{{- define "toygres.probe" -}}
httpGet:
  path: {{ index . 1 }}
  port: http
  scheme: {{ ternary "HTTP" "HTTPS" (index . 0).Values.tls.terminated }}
{{- end }}

{{/* The files that a pod reads: name, secret, and the key with the file's name, if only one is wanted. */}}
{{- define "toygres.files" -}}
{{- $files := list -}}
{{- with .Values.tls.secretName -}}
{{- $files = append $files (dict "name" "tls" "secret" .) -}}
{{- end -}}
{{- with .Values.secrets.bootstrapToken -}}
{{- if .enabled -}}
{{- $files = append $files (dict "name" "bootstrap-token" "secret" .name "key" .key "path" "token") -}}
{{- end -}}
{{- end -}}
{{- with .Values.secrets.databaseCa -}}
{{- if .name -}}
{{- $files = append $files (dict "name" "database-ca" "secret" .name "key" .key "path" "ca.crt") -}}
{{- end -}}
{{- end -}}
{{- toJson $files -}}
{{- end }}

{{/* A Deployment. Called with (list $ "api"). */}}
{{- define "toygres.deployment" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $values := index $root.Values $component -}}
{{- $files := include "toygres.files" $root | fromJsonArray -}}
{{- $delay := $values.shutdownDelaySeconds | default 0 | int -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $root.Release.Name }}-{{ $component }}
  labels:
    {{- include "toygres.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ $component }}
spec:
  replicas: {{ $values.replicas }}
  # One that dies at its first work does not count as started.
  minReadySeconds: 5
  revisionHistoryLimit: 5
  strategy:
    type: RollingUpdate
    rollingUpdate:
      maxUnavailable: 0
      maxSurge: 1
  selector:
    matchLabels:
      {{- include "toygres.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "toygres.selector" . | nindent 8 }}
        app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
      {{- with $root.Values.podAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      serviceAccountName: {{ $root.Release.Name }}-{{ $component }}
      automountServiceAccountToken: true
      # Variables for every service of the namespace would be of no use.
      enableServiceLinks: false
      # Requests, then activities, have the grace time to end.
      terminationGracePeriodSeconds: {{ add $delay (mul 2 $root.Values.shutdownGraceSeconds) 10 }}
      securityContext:
        runAsNonRoot: true
        runAsUser: 65532
        runAsGroup: 65532
        fsGroup: 65532
        seccompProfile:
          type: RuntimeDefault
      topologySpreadConstraints:
        {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
        - topologyKey: {{ . }}
          maxSkew: 1
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- include "toygres.selector" (list $root $component) | nindent 14 }}
        {{- end }}
      {{- with $root.Values.image.pullSecrets }}
      imagePullSecrets:
        {{- range . }}
        - name: {{ . | quote }}
        {{- end }}
      {{- end }}
      {{- with $root.Values.priorityClassName }}
      priorityClassName: {{ . | quote }}
      {{- end }}
      {{- with $root.Values.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $root.Values.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      containers:
        - name: toygres
          {{- with $root.Values.image }}
          image: {{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $root.Chart.AppVersion }}{{ end }}
          imagePullPolicy: {{ .pullPolicy }}
          {{- end }}
          args: [server, start, --foreground, --mode, {{ $component }}]
          ports:
            - name: http
              containerPort: 8080
              protocol: TCP
          env:
            {{- include "toygres.environment" . | trim | nindent 12 }}
          # Migrations and the first look at the cluster come first.
          startupProbe:
            {{- include "toygres.probe" (list $root "/livez") | nindent 12 }}
            periodSeconds: 2
            timeoutSeconds: 5
            failureThreshold: 60
          livenessProbe:
            {{- include "toygres.probe" (list $root "/livez") | nindent 12 }}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 3
          readinessProbe:
            {{- include "toygres.probe" (list $root "/readyz") | nindent 12 }}
            periodSeconds: 5
            timeoutSeconds: 5
            failureThreshold: 2
          resources:
            {{- toYaml $values.resources | nindent 12 }}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities:
              drop: [ALL]
          volumeMounts:
            - name: home
              mountPath: /var/lib/toygres
            {{- range $files }}
            - name: {{ .name }}
              mountPath: /etc/toygres/{{ .name }}
              readOnly: true
            {{- end }}
      volumes:
        - name: home
          emptyDir:
            sizeLimit: {{ $root.Values.logVolumeSize | quote }}
        {{- range $files }}
        - name: {{ .name }}
          secret:
            secretName: {{ .secret | quote }}
            defaultMode: 0440
            {{- if .key }}
            items:
              - key: {{ .key | quote }}
                path: {{ .path }}
            {{- end }}
        {{- end }}
{{- end }}
