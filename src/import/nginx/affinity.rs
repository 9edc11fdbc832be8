//! `hash`, `ip_hash` and `sticky` of an upstream: what ties a client to a node.

use crate::import::draft::Prefer;
use crate::import::model::Kind;
use crate::import::nginx::scope::Context;
use crate::import::nginx::syntax::Directive;
use crate::import::nginx::variable::{self, Meaning};
use crate::import::text::{Place, printable, quoted};

/// What ties a client to a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    /// A value of `affinity.key`.
    pub(super) word: &'static str,
    pub(super) place: Place,
}

/// `hash`.
pub(super) fn hash(directive: &Directive, context: &mut Context<'_>) -> Option<Key> {
    let place = directive.place();
    let meaning = variable::meaning(directive.arg(0), context);
    if matches!(meaning, Meaning::Key(_)) {
        maps(directive.arg(0), context);
    }
    match meaning {
        Meaning::Key(word) => Some(Key { word, place }),
        Meaning::Script => {
            context.report.differs(
                place,
                format!("{} is computed by a script, which is not read: the client id is taken for it", printable(directive.arg(0))),
                "Remora reads the CONNECT itself; affinity.key may be \"username\" instead, and affinity.group a part of the id",
            );
            Some(Key {
                word: "client_id",
                place,
            })
        }
        Meaning::Listener | Meaning::Unknown => {
            context.report.lost(
                place,
                format!(
                    "clients are not tied to nodes by {}: the client id is used",
                    printable(directive.arg(0))
                ),
                "affinity.key may be \"client_id\", \"username\", \"client_address\" or \"certificate_cn\"",
            );
            None
        }
    }
}

/// Reports the maps of a key, which is used as it is.
fn maps(text: &str, context: &mut Context<'_>) {
    /// Maps of maps; a circle ends here.
    const STEPS_MAX: usize = 8;
    let mut text = text;
    for _ in 0..STEPS_MAX {
        let map = variable::name(text).and_then(|name| context.variables.get(name).copied());
        let Some(map) = map.filter(|map| map.name.text == "map") else {
            return;
        };
        context.mark_all(map);
        context.report.differs(
            map.place(),
            "clients are tied to nodes by what this map reads, and not by what it makes of it",
            "affinity.group takes a part of the key; clients without an id go by affinity.anonymous",
        );
        text = map.arg(0);
    }
}

/// Angie's sticky sessions.
pub(super) fn sticky(directive: &Directive, context: &mut Context<'_>) -> Option<Key> {
    let place = directive.place();
    let lookup = directive.args.iter().find_map(|word| word.text.strip_prefix("lookup="));
    match lookup.map(|lookup| variable::meaning(lookup, context)) {
        Some(Meaning::Key(word)) => Some(Key { word, place }),
        _ => {
            context.report.lost(
                place,
                "clients are tied to nodes by their client id, not by cookies or routes",
                "the node is the same over TCP and WebSocket, and needs no cookie",
            );
            None
        }
    }
}

/// Sets what ties clients of a service to nodes.
pub(super) fn tie(key: Option<Key>, kind: Kind, context: &mut Context<'_>) {
    let Some(Key { word, place }) = key else {
        return;
    };
    if kind == Kind::Pass && word == "client_address" {
        let why = "where TLS is passed on, clients are tied to nodes by their addresses anyway";
        return context.report.unneeded(place, "hash", why);
    }
    context.draft.set(
        "affinity",
        "key",
        quoted(word),
        place,
        Prefer::First,
        &mut context.report,
    );
    context.report.differs(
        place,
        "the ring is another one: most clients move to another node, once",
        "move them in small steps: see the checklist in docs/from-nginx.md",
    );
}
