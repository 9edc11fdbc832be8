//! Writes tables, with the line of the original behind each key.

use super::cluster::Node;
use super::environment;
use super::model::{Listener, Setting, is_name};
use super::text::{Place, Sources, printable, quoted};

/// The text so far.
pub(super) struct Writer<'s> {
    pub(super) sources: &'s Sources,
    pub(super) text: String,
    /// Where the keys are from that have variables of the environment.
    pub(super) variables: Vec<Place>,
}

impl Writer<'_> {
    pub(super) fn setting(&mut self, setting: &Setting) {
        let directive = self.sources.spot(setting.place).map_or(String::new(), |spot| {
            printable(spot.text.get(spot.start..spot.end).unwrap_or_default().trim_end())
        });
        if environment::is_in_toml(&setting.toml) {
            self.variables.push(setting.place);
        }
        let line = self.sources.line(setting.place);
        self.text += &format!("{} = {}  # {line}: {directive}\n", setting.key, setting.toml);
    }

    pub(super) fn listener(&mut self, listener: &Listener) {
        self.text += "\n[[listeners]]\n";
        if let Some(name) = listener.name.as_ref().filter(|name| is_name(name)) {
            self.setting(&Setting::new("name", quoted(name), listener.place));
        }
        self.setting(&Setting::new(
            "address",
            quoted(&listener.address.to_string()),
            listener.place,
        ));
        for setting in unique(&listener.settings) {
            self.setting(&setting);
        }
        if let [(_, _, place), ..] = &listener.certificates[..] {
            let pairs: Vec<String> = listener
                .certificates
                .iter()
                .map(|(chain, key, _)| match key {
                    Some(key) => format!("{{ chain = {}, key = {} }}", quoted(chain), quoted(key)),
                    None => format!("{{ chain = {} }}", quoted(chain)),
                })
                .collect();
            self.setting(&Setting::new("certificates", format!("[{}]", pairs.join(", ")), *place));
        }
    }

    pub(super) fn node(&mut self, node: &Node, weight: Option<(u64, Place)>) {
        self.text += "\n[[nodes]]\n";
        let mqtt = &node.mqtt;
        if !mqtt.is_template {
            self.setting(&Setting::new("name", quoted(&node.name), mqtt.place));
        }
        let scheme = if mqtt.has_tls { "mqtts://" } else { "" };
        let address = quoted(&format!("{scheme}{}", mqtt.address()));
        self.setting(&Setting::new("address", address, mqtt.place));
        if let Some((name, place)) = &mqtt.server_name {
            self.setting(&Setting::new("server_name", quoted(name), *place));
        }
        if let Some((version, place)) = mqtt.proxy_protocol {
            self.setting(&Setting::new("proxy_protocol", quoted(version), place));
        }
        if let Some(ws) = &node.ws {
            let address = match (ws.has_tls, &ws.path) {
                (false, None) => ws.address(),
                (has_tls, path) => {
                    let scheme = if has_tls { "wss" } else { "ws" };
                    format!("{scheme}://{}{}", ws.address(), path.as_deref().unwrap_or_default())
                }
            };
            self.setting(&Setting::new("ws", quoted(&address), ws.place));
            if let Some((version, place)) = ws.proxy_protocol {
                self.setting(&Setting::new("ws_proxy_protocol", quoted(version), place));
            }
        }
        if let Some(pass) = &node.pass {
            self.setting(&Setting::new("pass", quoted(&pass.address()), pass.place));
            if let Some((version, place)) = pass.proxy_protocol {
                self.setting(&Setting::new("pass_proxy_protocol", quoted(version), place));
            }
        }
        if let Some((api, place)) = &mqtt.api {
            self.setting(&Setting::new("api", quoted(api), *place));
        }
        if let Some((weight, place)) = weight {
            self.setting(&Setting::new("weight", weight.to_string(), place));
        }
        if let Some((most, place)) = mqtt.connections_max {
            self.setting(&Setting::new("connections_max", most.to_string(), place));
        }
    }
}

/// One setting for each key: lists are joined, and of other values the first one counts.
fn unique(settings: &[Setting]) -> Vec<Setting> {
    let mut found: Vec<Setting> = Vec::new();
    for setting in settings {
        let Some(other) = found.iter_mut().find(|other| other.key == setting.key) else {
            found.push(setting.clone());
            continue;
        };
        let (first, second) = (other.toml.strip_suffix(']'), setting.toml.strip_prefix('['));
        if let (Some(first), Some(second)) = (first, second)
            && other.toml != setting.toml
        {
            other.toml = format!("{first}, {second}");
        }
    }
    found
}
