//! The panels of the dashboard: what an operator looks at, in the order in which she asks.

/// A row of panels.
pub(crate) struct Row {
    pub(crate) title: &'static str,
    pub(crate) panels: &'static [Panel],
}

/// How a panel shows its values.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One number, as of now.
    Stat,
    /// Lines over time.
    Lines,
    /// A row for each series, as of now.
    Table,
}

/// One panel.
pub(crate) struct Panel {
    pub(crate) title: &'static str,
    pub(crate) kind: Kind,
    /// As Grafana names units.
    pub(crate) unit: &'static str,
    /// A number from which it is red.
    pub(crate) bad_from: Option<f64>,
    /// Expressions, each with the name of its series.
    pub(crate) queries: &'static [(&'static str, &'static str)],
}

/// An expression with the chosen balancers in place of `@`.
macro_rules! of {
    ($($part:literal)@+) => {
        concat_selected!($($part),+)
    };
}

macro_rules! concat_selected {
    ($first:literal $(, $rest:literal)*) => {
        concat!($first $(, "job=~\"$job\", instance=~\"$instance\"", $rest)*)
    };
}

const fn stat(
    title: &'static str,
    unit: &'static str,
    bad_from: Option<f64>,
    queries: &'static [(&'static str, &'static str)],
) -> Panel {
    Panel {
        title,
        kind: Kind::Stat,
        unit,
        bad_from,
        queries,
    }
}

const fn lines(title: &'static str, unit: &'static str, queries: &'static [(&'static str, &'static str)]) -> Panel {
    Panel {
        title,
        kind: Kind::Lines,
        unit,
        bad_from: None,
        queries,
    }
}

const fn table(title: &'static str, unit: &'static str, queries: &'static [(&'static str, &'static str)]) -> Panel {
    Panel {
        title,
        kind: Kind::Table,
        unit,
        bad_from: None,
        queries,
    }
}

/// All rows.
pub(crate) const ROWS: &[Row] = &[
    Row {
        title: "Is it fine?",
        panels: &[
            stat("Clients", "short", None, &[(of!("sum(remora_connections{"@"})"), "")]),
            stat(
                "Endpoints down",
                "short",
                Some(1.0),
                &[(of!("sum(remora_node_state{state=\"down\", "@"})"), "")],
            ),
            stat(
                "Endpoints draining",
                "short",
                None,
                &[(of!("sum(remora_node_state{state=\"draining\", "@"})"), "")],
            ),
            stat("Storm", "short", Some(1.0), &[(of!("max(remora_storm{"@"})"), "")]),
            stat(
                "Balancers draining",
                "short",
                None,
                &[(of!("sum(remora_draining{"@"})"), "")],
            ),
            stat(
                "First certificate expires in",
                "s",
                None,
                &[(
                    of!("min({__name__=~\"remora_certificate_expiry_timestamp_seconds|remora_nodes_certificate_expiry_timestamp_seconds\", "@"}) - time()"),
                    "",
                )],
            ),
        ],
    },
    Row {
        title: "Nodes",
        panels: &[
            lines(
                "Endpoints by state",
                "short",
                &[(of!("sum by (state) (remora_node_state{"@"})"), "{{state}}")],
            ),
            lines(
                "Clients by node",
                "short",
                &[(of!("sum by (node) (remora_node_connections{"@"})"), "{{node}}")],
            ),
            lines(
                "Clients by node, against its share (1: as many as its part of the ring)",
                "none",
                &[(
                    of!("sum by (node) (remora_node_connections{"@"}) / on (node) (avg by (node) (remora_node_share{"@"}) * scalar(sum(remora_node_connections{"@"}) > 0))"),
                    "{{node}}",
                )],
            ),
            lines(
                "CONNACK codes per second",
                "short",
                &[(
                    of!("sum by (code) (rate(remora_connacks_total{"@"}[$__rate_interval])) > 0"),
                    "{{code}}",
                )],
            ),
            lines(
                "Failures that clients met, by node and reason, per second",
                "short",
                &[(
                    of!("sum by (node, reason) (rate(remora_node_failures_total{"@"}[$__rate_interval])) > 0"),
                    "{{node}} {{reason}}",
                )],
            ),
            lines(
                "Further tries by reason, per second",
                "short",
                &[(
                    of!("sum by (reason) (rate(remora_retries_total{"@"}[$__rate_interval]))"),
                    "{{reason}}",
                )],
            ),
            lines(
                "Probes by result, per second",
                "short",
                &[
                    (
                        of!("sum by (result) (rate(remora_probes_total{"@"}[$__rate_interval]))"),
                        "{{result}}",
                    ),
                    (
                        of!("sum(rate(remora_probes_not_asked_total{"@"}[$__rate_interval]))"),
                        "could not be sent",
                    ),
                    (of!("sum(remora_probes_overruled{"@"})"), "endpoints overruled"),
                ],
            ),
            lines(
                "Bytes by node, per second",
                "Bps",
                &[(
                    of!("sum by (node, direction) (rate(remora_node_bytes_total{"@"}[$__rate_interval]))"),
                    "{{node}} {{direction}}",
                )],
            ),
            lines(
                "Source ports in use, by node",
                "short",
                &[
                    (of!("max by (node) (remora_node_source_ports{"@"})"), "{{node}}"),
                    (of!("min(remora_source_ports_max{"@"})"), "there are"),
                ],
            ),
        ],
    },
    Row {
        title: "Clients",
        panels: &[
            lines(
                "Connections accepted per second, by listener",
                "short",
                &[(
                    of!("sum by (listener) (rate(remora_accepts_total{"@"}[$__rate_interval]))"),
                    "{{listener}}",
                )],
            ),
            lines(
                "CONNECTs per second, by result",
                "short",
                &[(
                    of!("sum by (result) (rate(remora_connects_total{"@"}[$__rate_interval]))"),
                    "{{result}}",
                )],
            ),
            lines(
                "Ends per second, by cause",
                "short",
                &[(
                    of!("sum by (cause) (rate(remora_ends_total{"@"}[$__rate_interval])) > 0"),
                    "{{cause}}",
                )],
            ),
            lines(
                "From the accept to the whole CONNECT",
                "s",
                &[
                    (
                        of!("histogram_quantile(0.5, sum by (le) (rate(remora_peek_duration_seconds_bucket{"@"}[$__rate_interval])))"),
                        "half",
                    ),
                    (
                        of!("histogram_quantile(0.99, sum by (le) (rate(remora_peek_duration_seconds_bucket{"@"}[$__rate_interval])))"),
                        "99 of 100",
                    ),
                ],
            ),
            lines(
                "From the dial to the CONNACK, per step",
                "s",
                &[
                    (
                        of!("histogram_quantile(0.5, sum by (le, step) (rate(remora_step_duration_seconds_bucket{"@"}[$__rate_interval])))"),
                        "{{step}}, half",
                    ),
                    (
                        of!("histogram_quantile(0.99, sum by (le, step) (rate(remora_step_duration_seconds_bucket{"@"}[$__rate_interval])))"),
                        "{{step}}, 99 of 100",
                    ),
                ],
            ),
            lines(
                "Clients that wait for their turn",
                "short",
                &[
                    (of!("sum by (node) (remora_node_connects_waiting{"@"})"), "{{node}}"),
                    (
                        of!("sum(rate(remora_pace_waits_total{"@"}[$__rate_interval]))"),
                        "began to wait, per second",
                    ),
                ],
            ),
            lines(
                "Clients off home",
                "short",
                &[
                    (of!("sum(remora_placements{"@"})"), "remembered"),
                    (
                        of!("sum(rate(remora_placements_evicted_total{"@"}[$__rate_interval]))"),
                        "forgotten early, per second",
                    ),
                ],
            ),
            lines(
                "Bytes relayed per second",
                "Bps",
                &[(
                    of!("sum by (direction, method) (rate(remora_bytes_total{"@"}[$__rate_interval]))"),
                    "{{direction}} {{method}}",
                )],
            ),
            lines(
                "TLS handshakes per second",
                "short",
                &[(
                    of!("sum by (listener, kind) (rate(remora_tls_handshakes_total{"@"}[$__rate_interval]))"),
                    "{{listener}} {{kind}}",
                )],
            ),
            lines(
                "CONNECTs held of clients in a loop, per second",
                "short",
                &[(
                    of!("sum(rate(remora_held_reconnects_total{"@"}[$__rate_interval]))"),
                    "held",
                )],
            ),
        ],
    },
    Row {
        title: "Limits",
        panels: &[
            lines(
                "Connections, of those that there may be",
                "percentunit",
                &[
                    (
                        of!("sum by (instance) (remora_connections{"@"}) / on (instance) sum by (instance) (remora_connections_max{"@"})"),
                        "{{instance}}",
                    ),
                    (
                        of!("remora_connections{"@"} / remora_listener_connections_max{"@"}"),
                        "{{instance}} {{listener}}",
                    ),
                ],
            ),
            lines(
                "Bytes held for clients without a node",
                "bytes",
                &[(of!("sum by (instance) (remora_held_bytes{"@"})"), "{{instance}}")],
            ),
            lines(
                "Bytes that wait for slow receivers",
                "bytes",
                &[(of!("sum by (instance) (remora_waiting_bytes{"@"})"), "{{instance}}")],
            ),
            lines(
                "Clients whose CONNECT is awaited",
                "short",
                &[(
                    of!("sum by (instance) (remora_undecided_connections{"@"})"),
                    "{{instance}}",
                )],
            ),
            lines(
                "Descriptors in use",
                "percentunit",
                &[(
                    of!("(process_open_fds{"@"} / process_max_fds{"@"}) and on (job, instance) remora_build_info"),
                    "{{instance}}",
                )],
            ),
            lines(
                "Clients reset for want of a descriptor, per second",
                "short",
                &[(
                    of!("sum by (instance) (rate(remora_turned_away_total{"@"}[$__rate_interval]))"),
                    "{{instance}}",
                )],
            ),
        ],
    },
    Row {
        title: "Certificates",
        panels: &[
            table(
                "Certificates of listeners expire",
                "dateTimeAsIso",
                &[(of!("sort(remora_certificate_expiry_timestamp_seconds{"@"} * 1000)"), "")],
            ),
            table(
                "The certificate for nodes expires",
                "dateTimeAsIso",
                &[(
                    of!("sort(remora_nodes_certificate_expiry_timestamp_seconds{"@"} * 1000)"),
                    "",
                )],
            ),
            table(
                "Lists of revoked certificates expire",
                "dateTimeAsIso",
                &[(
                    of!("sort(remora_revocation_list_expiry_timestamp_seconds{"@"} * 1000)"),
                    "",
                )],
            ),
        ],
    },
    Row {
        title: "Process",
        panels: &[
            lines(
                "CPU, in cores",
                "none",
                &[(
                    of!("rate(process_cpu_seconds_total{"@"}[$__rate_interval]) and on (job, instance) remora_build_info"),
                    "{{instance}}",
                )],
            ),
            lines(
                "Memory",
                "bytes",
                &[(
                    of!("process_resident_memory_bytes{"@"} and on (job, instance) remora_build_info"),
                    "{{instance}}",
                )],
            ),
            lines(
                "Seconds for which a thread has not run",
                "s",
                &[(of!("remora_thread_silence_seconds{"@"}"), "{{instance}} {{thread}}")],
            ),
            lines(
                "Lines of the log that were lost or kept back, per second",
                "short",
                &[
                    (
                        of!("sum(rate(remora_log_lines_dropped_total{"@"}[$__rate_interval]))"),
                        "dropped",
                    ),
                    (
                        of!("sum(rate(remora_log_lines_unwritten_total{"@"}[$__rate_interval]))"),
                        "unwritten",
                    ),
                    (
                        of!("sum(rate(remora_log_lines_kept_back_total{"@"}[$__rate_interval]))"),
                        "kept back",
                    ),
                ],
            ),
            lines(
                "Events",
                "short",
                &[(
                    of!("sum by (event) (increase(remora_events_total{"@"}[$__rate_interval])) > 0"),
                    "{{event}}",
                )],
            ),
            lines(
                "Answers of the source of nodes, per second",
                "short",
                &[(
                    of!("sum by (result) (rate(remora_discovery_answers_total{"@"}[$__rate_interval]))"),
                    "{{result}}",
                )],
            ),
            table("Balancers", "short", &[(of!("remora_build_info{"@"}"), "")]),
            table(
                "Running since",
                "dateTimeAsIso",
                &[(
                    of!("(process_start_time_seconds{"@"} * 1000) and on (job, instance) remora_build_info"),
                    "",
                )],
            ),
        ],
    },
    Row {
        title: "Doctor",
        panels: &[
            lines(
                "Findings, by code",
                "short",
                &[(of!("sum by (code) (remora_findings{"@"})"), "{{code}}")],
            ),
            lines(
                "Share of messages that arrive, from node to node",
                "percentunit",
                &[(of!("remora_route_check_delivered_ratio{"@"}"), "{{from}} → {{to}}")],
            ),
            lines(
                "Time of messages from node to node",
                "s",
                &[(of!("remora_route_check_seconds{"@"}"), "{{from}} → {{to}}")],
            ),
        ],
    },
];
