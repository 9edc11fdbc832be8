//! TLS: the keys of a listener, and those for all nodes.

use crate::import::draft::Prefer;
use crate::import::model::{Listener, Server, Setting};
use crate::import::nginx::scope::{Context, Scope};
use crate::import::nginx::template::Own;
use crate::import::text::{Place, printable, quoted};
use crate::import::tls::{self, Oldest};

/// Gives listeners their TLS.
pub(super) fn of_clients<'d>(scope: &Scope<'d>, place: Place, listeners: &mut [Listener], context: &mut Context<'d>) {
    let chains = scope.many("ssl_certificate", context);
    let keys = scope.many("ssl_certificate_key", context);
    let mut certificates = Vec::new();
    for (index, chain) in chains.iter().enumerate() {
        let key = keys.get(index).map(|key| key.arg(0));
        let is_file = |path: &str| {
            let is_known = context.filled(path, Own::Taken).is_some();
            is_known && !["data:", "engine:", "store:"].iter().any(|kind| path.starts_with(kind))
        };
        if !is_file(chain.arg(0)) || !key.is_none_or(is_file) {
            context.report.lost(
                chain.place(),
                "Remora reads certificates and keys from files",
                "write them to files, and name these in `certificates`",
            );
            continue;
        }
        let chain_file = context.path(chain.arg(0), chain.place());
        let key = key
            .filter(|key| *key != chain.arg(0))
            .map(|key| context.path(key, chain.place()));
        certificates.push((chain_file, key, chain.place()));
    }
    if certificates.is_empty() {
        context.report.lost(
            place,
            "a listener with TLS has no certificate that is a file, so it is left out",
            "write the certificate to a file, and import again",
        );
    }
    let mut settings = vec![Setting::new("tls", "\"end\"", place)];
    if let Some(directive) = scope.one("ssl_protocols", context) {
        let words = directive.args.iter().map(|word| &*word.text);
        match tls::oldest(words) {
            Oldest::Taken(version) => settings.push(Setting::new("tls_min", quoted(version), directive.place())),
            Oldest::Refused(version) => {
                settings.push(Setting::new("tls_min", "\"1.2\"", directive.place()));
                tls::lost_versions(directive.place(), &version, &mut context.report);
            }
        }
    }
    for name in ["ssl_ciphers", "ssl_conf_command"] {
        for directive in scope.many(name, context) {
            let words: Vec<&str> = directive.args.iter().map(|word| &*word.text).collect();
            tls::ciphers(directive.place(), name, &words.join(":"), &mut context.report);
        }
    }
    clients(scope, &mut settings, context);
    if let Some(password) = scope.one("ssl_password_file", context) {
        context.report.lost(
            password.place(),
            "private keys cannot be encrypted",
            "decrypt the key: openssl pkey -in FILE -out FILE.new",
        );
    }
    for listener in listeners {
        listener.settings.extend(settings.iter().cloned());
        listener.certificates.clone_from(&certificates);
    }
}

/// Client certificates.
fn clients<'d>(scope: &Scope<'d>, settings: &mut Vec<Setting>, context: &mut Context<'d>) {
    let authority = scope.one("ssl_client_certificate", context);
    let trusted = scope.one("ssl_trusted_certificate", context);
    let list = scope.one("ssl_crl", context);
    let verify = scope.one("ssl_verify_client", context);
    let word = match verify.map(|verify| verify.arg(0)) {
        Some("on") => "required",
        Some("optional") => "optional",
        Some("optional_no_ca") => {
            let Some(verify) = verify else { return };
            context.report.lost(
                verify.place(),
                "optional_no_ca: Remora verifies every certificate that a client shows",
                "write client_certificates = \"optional\" and client_ca, or let TLS end at the nodes (tls = \"pass\")",
            );
            return;
        }
        _ => return,
    };
    let (Some(verify), Some(authority)) = (verify, authority.or(trusted)) else {
        if let Some(verify) = verify {
            context.report.lost(
                verify.place(),
                "no ssl_client_certificate says whom to believe",
                "add client_certificates and client_ca",
            );
        }
        return;
    };
    settings.push(Setting::new("client_certificates", quoted(word), verify.place()));
    let file = context.path(authority.arg(0), authority.place());
    settings.push(Setting::new("client_ca", quoted(&file), authority.place()));
    if let Some(list) = list {
        let file = context.path(list.arg(0), list.place());
        settings.push(Setting::new("client_crl", quoted(&file), list.place()));
        settings.push(Setting::new("client_crl_expired", "\"refuse\"", list.place()));
    }
}

/// Gives nodes their TLS; `name` is what nginx compares with their certificates without `proxy_ssl_name`.
pub(super) fn of_nodes<'d>(
    scope: &Scope<'d>,
    place: Place,
    name: &str,
    servers: &mut [Server],
    context: &mut Context<'d>,
) {
    let set = |key: &'static str, toml: String, place: Place, context: &mut Context<'d>| {
        context
            .draft
            .set("nodes_tls", key, toml, place, Prefer::First, &mut context.report);
    };
    servers.iter_mut().for_each(|server| server.has_tls = true);
    let verify = scope.one("proxy_ssl_verify", context);
    let is_verified = verify.is_some_and(|verify| verify.arg(0) == "on");
    let trusted = scope.one("proxy_ssl_trusted_certificate", context);
    let given = scope.one("proxy_ssl_name", context);
    if let (Some(ca), true) = (trusted, is_verified) {
        let file = context.path(ca.arg(0), ca.place());
        set("ca", quoted(&file), ca.place(), context);
        let (name, place) = given.map_or((name, place), |given| (given.arg(0), given.place()));
        let name = name.trim_end_matches('.');
        let host = crate::import::address::is_host(name).then(|| name.to_owned());
        match host {
            Some(host) => servers
                .iter_mut()
                .for_each(|server| server.server_name = Some((host.clone(), place))),
            None => context.report.lost(
                place,
                format!(
                    "nodes' certificates are compared with {}, which no host can have",
                    printable(name)
                ),
                "write server_name of each node, or leave it out for the host of its address",
            ),
        }
        set("common_names", "true".to_owned(), ca.place(), context);
    } else {
        let place = verify.map_or(place, |verify| verify.place());
        set("insecure_skip_verify", "true".to_owned(), place, context);
        context.report.differs(
            place,
            "nodes' certificates are not verified, as nginx does by default",
            "write ca in [nodes_tls], and leave insecure_skip_verify out",
        );
    }
    let chain = scope.one("proxy_ssl_certificate", context);
    let key = scope.one("proxy_ssl_certificate_key", context);
    if let (Some(chain), Some(key)) = (chain, key) {
        let pair = format!(
            "{{ chain = {}, key = {} }}",
            quoted(&context.path(chain.arg(0), chain.place())),
            quoted(&context.path(key.arg(0), chain.place()))
        );
        set("certificate", pair, chain.place(), context);
    }
    if let Some(list) = scope.one("proxy_ssl_crl", context) {
        context.report.lost(
            list.place(),
            "lists of revoked certificates of nodes are not read",
            "have the nodes' authority issue short certificates",
        );
    }
    for name in ["proxy_ssl_ciphers", "proxy_ssl_protocols", "proxy_ssl_conf_command"] {
        if let Some(directive) = scope.one(name, context) {
            context.report.differs(
                directive.place(),
                format!("{name}: TLS 1.2 and 1.3 with AES-GCM and ChaCha20 go to the nodes"),
                "EMQX has these",
            );
        }
    }
}
