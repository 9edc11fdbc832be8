//! What a variable of nginx stands for, as far as a balancer can do the same.

use crate::import::nginx::scope::Context;

/// What ties a client to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A value of `affinity.key`.
    Key(&'static str),
    /// What a script computes: most likely the client id.
    Script,
    /// The same for all clients of a listener.
    Listener,
    Unknown,
}

/// The name of the variable that `text` is, if it is one and nothing else.
pub(super) fn name(text: &str) -> Option<&str> {
    let name = text.strip_prefix('$')?;
    let name = name
        .strip_prefix('{')
        .and_then(|name| name.strip_suffix('}'))
        .unwrap_or(name);
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_name.then_some(name)
}

/// What the expression `text` says of a client.
pub(super) fn meaning(text: &str, context: &Context<'_>) -> Meaning {
    /// Maps of maps; a circle ends here.
    const STEPS_MAX: usize = 8;
    let mut text = text;
    for _ in 0..STEPS_MAX {
        let Some(name) = name(text) else {
            let is_constant = !text.contains('$');
            return if is_constant {
                Meaning::Listener
            } else {
                Meaning::Unknown
            };
        };
        if let Some(known) = by_name(name) {
            return known;
        }
        let Some(directive) = context.variables.get(name) else {
            return Meaning::Unknown;
        };
        match &*directive.name.text {
            "js_set" => return Meaning::Script,
            "map" => text = directive.arg(0),
            "set" => text = directive.arg(1),
            _ => return Meaning::Unknown,
        }
    }
    Meaning::Unknown
}

fn by_name(name: &str) -> Option<Meaning> {
    let small = name.to_ascii_lowercase().replace('_', "");
    Some(match &*small {
        "remoteaddr" | "binaryremoteaddr" | "proxyprotocoladdr" | "realipremoteaddr" => Meaning::Key("client_address"),
        "serverport" | "serveraddr" | "servername" | "proxyprotocolserverport" => Meaning::Listener,
        "sslclientsdn" | "sslclientsdnlegacy" | "sslclientsdncn" => Meaning::Key("certificate_cn"),
        small if small.contains("clientid") || small.ends_with("cid") => Meaning::Key("client_id"),
        small if small.contains("username") || small == "mqttuser" => Meaning::Key("username"),
        _ => return None,
    })
}
