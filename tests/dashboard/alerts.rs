//! The alerts: what an operator is woken or told for.

/// One alert.
pub(crate) struct Alert {
    pub(crate) name: &'static str,
    /// It is raised where this has a value.
    pub(crate) expression: &'static str,
    /// For so long.
    pub(crate) lasts: &'static str,
    /// `critical` if clients are without a broker, or soon will be; otherwise `warning`.
    pub(crate) severity: &'static str,
    pub(crate) summary: &'static str,
}

/// All alerts.
pub(crate) const ALERTS: &[Alert] = &[
    Alert {
        name: "RemoraDown",
        expression: "up{job=~\".*remora.*\"} == 0",
        lasts: "1m",
        severity: "critical",
        summary: "{{ $labels.instance }} does not answer Prometheus.",
    },
    Alert {
        name: "RemoraNoNode",
        expression: "max by (job, instance) (remora_node_state{state=\"up\"}) == 0",
        lasts: "10s",
        severity: "critical",
        summary: "{{ $labels.instance }} has no node that takes clients.",
    },
    Alert {
        name: "RemoraNodeDown",
        expression: "max by (job, instance, node, endpoint) (remora_node_state{state=\"down\"}) == 1",
        lasts: "30s",
        severity: "warning",
        summary: "{{ $labels.instance }}: node {{ $labels.node }} ({{ $labels.endpoint }}) is down.",
    },
    Alert {
        name: "RemoraProbesOverruled",
        expression: "remora_probes_overruled > 0",
        lasts: "5m",
        severity: "warning",
        summary: "{{ $labels.instance }}: probes of {{ $value }} endpoints fail, and they stay in use.",
    },
    Alert {
        name: "RemoraNodesFull",
        expression: "sum by (job, instance) (increase(remora_ends_total{cause=\"limit_node\"}[5m])) > 0",
        lasts: "0s",
        severity: "critical",
        summary: "{{ $labels.instance }}: every node has all the connections that it may have, and clients are closed.",
    },
    Alert {
        name: "RemoraClientsRefused",
        expression: "sum by (job, instance, cause) (increase(remora_ends_total{cause=~\"refused|no_node|limit_pace|source_ports_exhausted|descriptors_exhausted\"}[5m])) > 0",
        lasts: "0s",
        severity: "critical",
        summary: "{{ $labels.instance }} could take clients to no node: {{ $labels.cause }}.",
    },
    Alert {
        name: "RemoraLimitReached",
        expression: "sum by (job, instance, cause) (increase(remora_ends_total{cause=~\"limit_total|limit_listener|limit_undecided|limit_handshakes|held_bytes_full|waiting_bytes_full\"}[5m])) > 0",
        lasts: "0s",
        severity: "warning",
        summary: "{{ $labels.instance }} closes clients because of a limit: {{ $labels.cause }}.",
    },
    Alert {
        name: "RemoraConnectionsNearLimit",
        expression: "sum by (job, instance) (remora_connections) > 0.9 * sum by (job, instance) (remora_connections_max) or remora_connections > 0.9 * remora_listener_connections_max",
        lasts: "1m",
        severity: "warning",
        summary: "{{ $labels.instance }} {{ $labels.listener }} has {{ $value }} connections, nine tenths of those that there may be.",
    },
    Alert {
        name: "RemoraDescriptorsNearLimit",
        expression: "process_open_fds > 0.9 * process_max_fds and on (job, instance) remora_build_info",
        lasts: "1m",
        severity: "warning",
        summary: "{{ $labels.instance }} has {{ $value }} descriptors open, nine tenths of those that there may be.",
    },
    Alert {
        name: "RemoraSourcePortsNearLimit",
        expression: "remora_node_source_ports > on (job, instance) group_left () 0.9 * remora_source_ports_max",
        lasts: "1m",
        severity: "warning",
        summary: "{{ $labels.instance }}: {{ $value }} source ports towards {{ $labels.node }} are in use, nine tenths of those that there are.",
    },
    Alert {
        name: "RemoraClientsTurnedAway",
        expression: "increase(remora_turned_away_total[5m]) > 0",
        lasts: "0s",
        severity: "critical",
        summary: "{{ $labels.instance }} has no descriptor left and resets clients.",
    },
    Alert {
        name: "RemoraStorm",
        expression: "remora_storm == 1",
        lasts: "0s",
        severity: "warning",
        summary: "{{ $labels.instance }}: far more clients connect than usual, or more than nodes may get.",
    },
    Alert {
        name: "RemoraCertificateExpires",
        expression: "(remora_certificate_expiry_timestamp_seconds or remora_nodes_certificate_expiry_timestamp_seconds) - time() < 21 * 86400",
        lasts: "0s",
        severity: "warning",
        summary: "{{ $labels.instance }}: a certificate of {{ if $labels.listener }}{{ $labels.listener }}{{ else }}Remora for nodes{{ end }} expires in {{ $value | humanizeDuration }}.",
    },
    Alert {
        name: "RemoraCertificateExpiresTomorrow",
        expression: "(remora_certificate_expiry_timestamp_seconds or remora_nodes_certificate_expiry_timestamp_seconds) - time() < 86400",
        lasts: "0s",
        severity: "critical",
        summary: "{{ $labels.instance }}: a certificate of {{ if $labels.listener }}{{ $labels.listener }}{{ else }}Remora for nodes{{ end }} expires in {{ $value | humanizeDuration }}, or has expired.",
    },
    Alert {
        name: "RemoraRevocationListExpires",
        expression: "remora_revocation_list_expiry_timestamp_seconds - time() < 86400",
        lasts: "0s",
        severity: "warning",
        summary: "{{ $labels.instance }}: a list of revoked certificates of {{ $labels.listener }} expires in {{ $value | humanizeDuration }}, or has expired.",
    },
    Alert {
        name: "RemoraReloadFailed",
        expression: "remora_config_last_reload_successful == 0",
        lasts: "0s",
        severity: "warning",
        summary: "{{ $labels.instance }}: the last reload was refused; the configuration before it is in force.",
    },
    Alert {
        name: "RemoraThreadStuck",
        expression: "remora_thread_silence_seconds > 3",
        lasts: "0s",
        severity: "critical",
        summary: "{{ $labels.instance }}: thread {{ $labels.thread }} has not run for {{ $value }} s.",
    },
    Alert {
        name: "RemoraPanic",
        expression: "increase(remora_panics_total[1h]) > 0",
        lasts: "0s",
        severity: "warning",
        summary: "{{ $labels.instance }}: a bug in Remora ended a connection.",
    },
    Alert {
        name: "RemoraLogLinesLost",
        expression: "increase(remora_log_lines_dropped_total[5m]) + increase(remora_log_lines_unwritten_total[5m]) > 0",
        lasts: "0s",
        severity: "warning",
        summary: "{{ $labels.instance }} loses lines of its log.",
    },
    Alert {
        name: "RemoraNodesNotFound",
        expression: "sum by (job, instance) (increase(remora_discovery_answers_total{result=~\"failed|held_back\"}[10m])) > 0 unless sum by (job, instance) (increase(remora_discovery_answers_total{result=\"used\"}[10m])) > 0",
        lasts: "0s",
        severity: "warning",
        summary: "{{ $labels.instance }} gets no usable answer from its source of nodes; those found before stay.",
    },
    Alert {
        name: "RemoraFinding",
        expression: "sum by (job, instance, code) (remora_findings) > 0",
        lasts: "2m",
        severity: "warning",
        summary: "{{ $labels.instance }}: the doctor finds {{ $labels.code }}.",
    },
];
