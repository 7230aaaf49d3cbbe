{{/* Names and parts that several templates share. */}}
{{- define "lockgate.name" -}}
{{- if contains "lockgate" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-lockgate" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "lockgate.selector" -}}
app.kubernetes.io/name: lockgate
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "lockgate.labels" -}}
{{ include "lockgate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "lockgate.operators" -}}
{{ .Values.admin.existingSecret | default (printf "%s-operators" (include "lockgate.name" .)) }}
{{- end }}

{{- define "lockgate.store" -}}
{{- if .Values.store.url }}{{ .Values.store.url }}{{ else if .Values.valkey.enabled }}redis://{{ include "lockgate.name" . }}-valkey.{{ .Release.Namespace }}.svc.cluster.local:6379{{ end }}
{{- end }}

{{/* Refuses what would let more through than a limit allows. */}}
{{- define "lockgate.check" -}}
{{- if and (gt (int .Values.replicas) 1) (not .Values.replicasCountForThemselves) (not (include "lockgate.store" .)) }}
{{- fail "replicas above 1 without a store count for themselves, and together let that many times the limit through: set valkey.enabled or store.url, and shared = true in each limit; or replicasCountForThemselves=true" }}
{{- end }}
{{- $limits := len (regexFindAll "(?m)^[ \t]*\\[\\[[ \t]*limit[ \t]*\\]\\]" .Values.config -1) }}
{{- $shared := len (regexFindAll "(?m)^[ \t]*shared[ \t]*=[ \t]*true" .Values.config -1) }}
{{- if and (gt (int .Values.replicas) 1) (not .Values.replicasCountForThemselves) (lt $shared $limits) }}
{{- fail (printf "%d of %d limits in config have no line `shared = true`: each of the replicas counts these for itself, and together they let that many times as much through; or replicasCountForThemselves=true" (sub $limits $shared) $limits) }}
{{- end }}
{{- if not (has .Values.kind (list "statefulset" "deployment")) }}
{{- fail "kind is statefulset or deployment" }}
{{- end }}
{{- if and (ne .Values.authority.distribute "none") (not .Values.authority.certificate) }}
{{- fail "authority.distribute needs authority.certificate, the text of lockgate-ca.pem" }}
{{- end }}
{{- end }}

{{/* The pod of both kinds. */}}
{{- define "lockgate.pod" -}}
metadata:
  labels:
    {{- include "lockgate.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # A reload suffices for most changes (config.watch); these sections need a new process.
    lockgate/needs-restart: {{ list (include "lockgate.store" .) .Values.store .Values.service.port .Values.admin .Values.authority.secret | toJson | sha256sum | trunc 16 | quote }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    # Volumes belong to this group; keys in secrets are readable for it alone.
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  containers:
    - name: lockgate
      image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      ports:
        - name: proxy
          containerPort: 8080
        - name: admin
          containerPort: {{ .Values.admin.port }}
      readinessProbe:
        httpGet:
          path: /readyz
          port: admin
          {{- if .Values.admin.tlsSecret }}
          scheme: HTTPS
          {{- end }}
        periodSeconds: 2
      livenessProbe:
        httpGet:
          path: /healthz
          port: admin
          {{- if .Values.admin.tlsSecret }}
          scheme: HTTPS
          {{- end }}
        periodSeconds: 10
        failureThreshold: 3
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        - name: config
          mountPath: /etc/lockgate
          readOnly: true
        - name: operators
          mountPath: /etc/lockgate-operators
          readOnly: true
        - name: state
          mountPath: /state
        {{- if .Values.admin.tlsSecret }}
        - name: admin-tls
          mountPath: /etc/lockgate-admin-tls
          readOnly: true
        {{- end }}
        {{- if .Values.authority.secret }}
        - name: authority
          mountPath: /etc/lockgate-authority
          readOnly: true
        {{- end }}
        {{- if .Values.store.passwordSecret }}
        - name: store
          mountPath: /etc/lockgate-store
          readOnly: true
        {{- end }}
  volumes:
    - name: config
      configMap:
        name: {{ include "lockgate.name" . }}
    - name: operators
      secret:
        secretName: {{ include "lockgate.operators" . }}
        defaultMode: 0440
        items:
          - key: operators
            path: operators
    {{- if .Values.admin.tlsSecret }}
    - name: admin-tls
      secret:
        secretName: {{ .Values.admin.tlsSecret }}
        defaultMode: 0440
    {{- end }}
    {{- if .Values.authority.secret }}
    - name: authority
      secret:
        secretName: {{ .Values.authority.secret }}
        defaultMode: 0440
    {{- end }}
    {{- if .Values.store.passwordSecret }}
    - name: store
      secret:
        secretName: {{ .Values.store.passwordSecret }}
        defaultMode: 0440
        items:
          - key: password
            path: password
    {{- end }}
    {{- if eq .Values.kind "deployment" }}
    - name: state
      emptyDir: {}
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
