//! What other programs write for a value: words of theirs, scalars of another type, lists in one string.

use toml::de::DeValue;

/// A certificate and its key, for suggestions.
pub(super) const PAIR: &str = "{ chain = \"tls.pem\", key = \"tls.key\" }";

/// A string that is not to name variables: as it must be written to stay as it is.
pub(super) fn escaped(text: &str) -> String {
    text.replace("${", "$${")
}

/// A string to be written into the file: all of it, as TOML.
pub(super) fn suggested(text: &str) -> String {
    toml::Value::from(escaped(text)).to_string()
}

/// The level of a log that another program's word means.
pub(super) fn level(word: &str) -> Option<&'static str> {
    Some(match word {
        "emerg" | "alert" | "crit" | "critical" | "fatal" | "err" | "off" => "error",
        "warning" => "warn",
        "notice" | "information" | "informational" => "info",
        "trace" | "verbose" | "all" => "debug",
        _ => return None,
    })
}

/// The affinity key that another program's word means.
pub(super) fn affinity(word: &str) -> Option<&'static str> {
    Some(match word {
        "client_id" | "clientid" | "mqtt_client_id" | "mqtt_clientid" | "id" | "mqtt" => "client_id",
        "user" | "user_name" | "username" | "mqtt_username" => "username",
        "ip" | "src" | "source" | "source_ip" | "ip_hash" | "client_ip" | "address" | "remote_addr" => "client_address",
        "cn" | "cert" | "certificate" | "common_name" | "cert_cn" => "certificate_cn",
        _ => return None,
    })
}

/// The text of a scalar.
pub(super) fn text(value: &DeValue<'_>) -> Option<String> {
    Some(match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Array(items) => {
            let items: Vec<String> = items.iter().filter_map(|item| text(item.get_ref())).collect();
            items.join(" ")
        }
        DeValue::Datetime(_) | DeValue::Table(_) => return None,
    })
}

/// A scalar as TOML.
pub(super) fn toml(value: &DeValue<'_>) -> String {
    let text = text(value).unwrap_or_default();
    match value {
        DeValue::String(_) => suggested(&text),
        _ => text,
    }
}

/// A list of strings that `value` means: a string with commas or spaces, or a list already.
pub(super) fn list_of(value: &DeValue<'_>) -> Option<String> {
    let items: Vec<String> = match value {
        DeValue::Array(items) => items.iter().filter_map(|item| text(item.get_ref())).collect(),
        DeValue::Table(_) | DeValue::Boolean(_) => return None,
        other => {
            let all = text(other)?;
            let items = all.split([',', ' ', ';']).map(str::trim);
            items.filter(|item| !item.is_empty()).map(str::to_owned).collect()
        }
    };
    let items: Vec<String> = items.iter().map(|item| suggested(item)).collect();
    (!items.is_empty()).then(|| format!("[{}]", items.join(", ")))
}
