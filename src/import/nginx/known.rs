//! Directives that have nothing in the result: what each of them means for a balancer of MQTT.

/// What to say of a directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Unneeded(&'static str),
    Differs(&'static str, &'static str),
    Lost(&'static str, &'static str),
    /// Only what is in its block says something.
    Block,
}

const PROCESS: &str = "the service manager does that: config/remora.service is a unit for systemd";
const EVENTS: &str = "each thread waits for its own sockets, and the limit of open files says how many there may be";
const BUFFERS: &str = "messages pass through without buffers of their own";
const HTTP: &str = "it is about HTTP answers, and WebSocket has none behind the upgrade";
const LOGS: &str = "lines go to standard output; see docs/logs.md";
const TICKETS: &str = "Remora gives each client tickets for resumption, and keeps no sessions";
const VARIABLES: &str = "nothing that was carried over uses its variables";

/// What `name` means, by itself.
pub(super) fn verdict(name: &str) -> Verdict {
    use Verdict::{Block, Differs, Lost, Unneeded};
    match name {
        "events" | "stream" | "http" | "server" | "location" => Block,
        "user"
        | "pid"
        | "daemon"
        | "master_process"
        | "lock_file"
        | "load_module"
        | "env"
        | "working_directory"
        | "pcre_jit"
        | "thread_pool"
        | "ssl_engine"
        | "worker_priority"
        | "debug_points"
        | "timer_resolution"
        | "ssl_object_cache_inheritable" => Unneeded(PROCESS),
        "worker_connections"
        | "multi_accept"
        | "use"
        | "accept_mutex"
        | "accept_mutex_delay"
        | "worker_rlimit_nofile"
        | "worker_cpu_affinity"
        | "worker_aio_requests"
        | "debug_connection"
        | "worker_rlimit_core" => Unneeded(EVENTS),
        "worker_shutdown_timeout" => Differs(
            "a reload ends no connection, and keeps no old process; an end drains at a rate",
            "drain.rate and drain.grace say how fast connections are closed at an end",
        ),
        "error_log"
        | "log_format"
        | "access_log"
        | "open_log_file_cache"
        | "log_not_found"
        | "log_subrequest"
        | "rewrite_log"
        | "limit_conn_log_level"
        | "limit_conn_status" => Unneeded(LOGS),
        "proxy_buffer_size"
        | "proxy_buffers"
        | "proxy_busy_buffers_size"
        | "proxy_buffering"
        | "proxy_request_buffering"
        | "proxy_downstream_buffer"
        | "proxy_upstream_buffer"
        | "preread_buffer_size"
        | "client_body_buffer_size"
        | "output_buffers"
        | "postpone_output"
        | "proxy_max_temp_file_size"
        | "proxy_temp_path"
        | "proxy_temp_file_write_size"
        | "large_client_header_buffers"
        | "client_header_buffer_size"
        | "connection_pool_size"
        | "request_pool_size" => Unneeded(BUFFERS),
        "tcp_nodelay"
        | "tcp_nopush"
        | "sendfile"
        | "sendfile_max_chunk"
        | "aio"
        | "directio"
        | "reset_timedout_connection" => Unneeded("small messages are sent at once"),
        "proxy_socket_keepalive" => Unneeded("TCP keepalive to nodes is always on"),
        "proxy_next_upstream" | "proxy_next_upstream_tries" | "proxy_next_upstream_timeout" => {
            Unneeded("other nodes are tried until timeouts.greet_total")
        }
        "proxy_half_close" => Unneeded("when one side has closed, the other may go on for timeouts.linger"),
        "preread_timeout" => {
            Unneeded("nothing is read before the nodes here; timeouts.connect is the time for the CONNECT")
        }
        "js_import"
        | "js_path"
        | "js_include"
        | "js_set"
        | "js_preread"
        | "js_var"
        | "js_fetch_trusted_certificate"
        | "js_shared_dict_zone" => Unneeded("Remora reads the client id itself, without a script"),
        "mqtt_preread" => Unneeded("the CONNECT is always read"),
        "js_access" | "js_filter" | "js_header_filter" | "js_body_filter" | "js_content" => Lost(
            "a script decides on connections or changes bytes",
            "let the nodes decide: EMQX has rules and authentication",
        ),
        "mqtt" | "mqtt_set_connect" | "mqtt_buffers" | "mqtt_rewrite_buffer_size" => Lost(
            "Remora does not change CONNECTs",
            "let the nodes do it: EMQX has expressions for client ids and user names",
        ),
        "proxy_upload_rate" | "proxy_download_rate" | "limit_rate" | "limit_rate_after" => Lost(
            "rates of single connections are not limited",
            "limit them at the nodes: EMQX has limiters for each client",
        ),
        "limit_req" | "limit_req_zone" => Lost(
            "requests are not limited by this",
            "limits.connects_per_source_per_second limits new connections of an address, pacing.connects_per_second those to a node",
        ),
        "limit_conn_zone"
        | "limit_conn_dry_run"
        | "map"
        | "geo"
        | "split_clients"
        | "set"
        | "map_hash_bucket_size"
        | "map_hash_max_size"
        | "variables_hash_max_size"
        | "variables_hash_bucket_size"
        | "geoip_country"
        | "geoip2"
        | "perl_set"
        | "types_hash_max_size"
        | "types_hash_bucket_size"
        | "server_names_hash_bucket_size"
        | "server_names_hash_max_size" => Unneeded(VARIABLES),
        "ssl_prefer_server_ciphers"
        | "ssl_ecdh_curve"
        | "ssl_dhparam"
        | "ssl_buffer_size"
        | "ssl_early_data"
        | "ssl_alpn" => Unneeded("rustls chooses among the few that it has; see docs/tls.md"),
        "ssl_verify_depth" | "proxy_ssl_verify_depth" => Differs(
            "chains of certificates may have any length that rustls takes",
            "in client_ca and in ca of [nodes_tls], name the authorities that you trust, and no more",
        ),
        "ssl_session_cache" | "ssl_session_timeout" | "ssl_session_tickets" | "ssl_session_ticket_key" => {
            Unneeded(TICKETS)
        }
        "proxy_ssl_session_reuse"
        | "proxy_ssl_server_name"
        | "proxy_ssl_verify"
        | "proxy_ssl_protocols"
        | "proxy_ssl_ciphers"
        | "proxy_ssl_certificate_cache"
        | "ssl_certificate_cache" => Unneeded("the name is sent, and sessions are resumed, by themselves"),
        "ssl_protocols"
        | "ssl_ciphers"
        | "ssl_certificate"
        | "ssl_certificate_key"
        | "ssl_verify_client"
        | "ssl_client_certificate"
        | "ssl_trusted_certificate"
        | "ssl_crl"
        | "ssl_conf_command"
        | "ssl_handshake_timeout"
        | "ssl_password_file" => Unneeded("no listener with TLS that was carried over uses it"),
        "ssl_stapling" | "ssl_stapling_verify" | "ssl_stapling_file" | "ssl_stapling_responder" => Lost(
            "OCSP answers are not sent to clients",
            "clients that ask for them ask the authority; use short certificates",
        ),
        "ssl_ocsp" | "ssl_ocsp_cache" | "ssl_ocsp_responder" => Lost(
            "clients' certificates are not looked up by OCSP",
            "write a list of revoked ones to client_crl",
        ),
        "ssl_reject_handshake" => Lost(
            "a server name of no certificate gets the first one, and no refusal",
            "the nodes still authenticate the client",
        ),
        "ssl_certificate_compression" | "ssl_key_log" | "ssl_ech_file" => {
            Differs("this part of TLS is not there", "see docs/tls.md")
        }
        "health_check" | "match" | "health_check_timeout" | "upstream_probe" => Lost(
            "nodes are probed in Remora's own way: with a CONNECT, when clients fail there",
            "health.interval probes them always; `api` of a node asks EMQX's own availability check",
        ),
        "return"
        | "pass"
        | "rewrite"
        | "try_files"
        | "if"
        | "auth_basic"
        | "auth_basic_user_file"
        | "auth_request"
        | "auth_jwt"
        | "satisfy"
        | "valid_referers" => Lost(
            "Remora passes MQTT on, and decides on nothing else",
            "let the nodes authenticate clients, or keep a proxy for HTTP in front",
        ),
        "allow"
        | "deny"
        | "limit_conn"
        | "proxy_pass"
        | "proxy_protocol"
        | "proxy_ssl"
        | "proxy_timeout"
        | "proxy_connect_timeout"
        | "proxy_bind"
        | "listen"
        | "upstream"
        | "ssl_preread"
        | "proxy_read_timeout"
        | "proxy_send_timeout"
        | "proxy_set_header"
        | "set_real_ip_from"
        | "real_ip_header"
        | "real_ip_recursive"
        | "server_name"
        | "resolver"
        | "resolver_timeout" => Unneeded("nothing that was carried over uses it"),
        "proxy_http_version"
        | "proxy_cache_bypass"
        | "proxy_no_cache"
        | "proxy_redirect"
        | "proxy_pass_request_headers"
        | "proxy_pass_header"
        | "proxy_hide_header"
        | "proxy_ignore_headers"
        | "proxy_intercept_errors"
        | "proxy_cache"
        | "proxy_cache_path"
        | "proxy_ignore_client_abort"
        | "chunked_transfer_encoding"
        | "include"
        | "types"
        | "default_type"
        | "charset"
        | "gzip"
        | "gzip_vary"
        | "gzip_proxied"
        | "gzip_types"
        | "gzip_comp_level"
        | "gzip_min_length"
        | "gzip_disable"
        | "gzip_buffers"
        | "gzip_http_version"
        | "keepalive_timeout"
        | "keepalive_requests"
        | "keepalive_disable"
        | "lingering_close"
        | "lingering_time"
        | "lingering_timeout"
        | "send_timeout"
        | "client_max_body_size"
        | "client_body_timeout"
        | "client_body_temp_path"
        | "server_tokens"
        | "add_header"
        | "expires"
        | "etag"
        | "root"
        | "index"
        | "autoindex"
        | "error_page"
        | "underscores_in_headers"
        | "ignore_invalid_headers"
        | "merge_slashes"
        | "port_in_redirect"
        | "server_name_in_redirect"
        | "absolute_redirect"
        | "proxy_headers_hash_max_size"
        | "proxy_headers_hash_bucket_size"
        | "http2"
        | "http2_max_concurrent_streams"
        | "open_file_cache"
        | "if_modified_since"
        | "msie_padding"
        | "more_set_headers" => Unneeded(HTTP),
        "client_header_timeout" => Unneeded("timeouts.connect runs from accept until the CONNECT"),
        "mail" | "rtmp" | "quic" | "google_perftools_profiles" => Lost("Remora serves MQTT alone", "keep nginx for it"),
        name if name.ends_with("_by_lua_block")
            || name.ends_with("_by_lua_file")
            || name.starts_with("lua_")
            || name.starts_with("perl") =>
        {
            Lost(
                "scripts are not run",
                "Remora reads the client id itself; other decisions are the nodes'",
            )
        }
        _ => Lost(
            "this directive is unknown",
            "look up what it does in nginx's manual, and in docs/from-nginx.md",
        ),
    }
}
