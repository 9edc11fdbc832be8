//! What control knows of nodes, in the messages between two processes.

use std::net::SocketAddr;
use std::time::Duration;

use crate::base::log::Escaped;
use crate::control::{Known, KnownAddresses, KnownFound};
use crate::handover::messages::{CameBack, FoundAddress, FoundNode, Manifest, milliseconds};

/// Writes it into a manifest.
pub(super) fn write(known: Known, manifest: &mut Manifest) {
    let found = known.found.into_iter().map(|found| FoundNode {
        name: found.name,
        host: found.host,
        missing_ms: found.missing.map(milliseconds),
    });
    let addresses = known.addresses.iter().flat_map(|known| {
        known.addresses.iter().map(|address| FoundAddress {
            node: known.node.clone(),
            asked: known.asked.clone(),
            address: address.to_string(),
        })
    });
    let came_back = known.came_back.into_iter().map(|(node, age)| CameBack {
        node,
        age_ms: milliseconds(age),
    });
    manifest.addresses = addresses.collect();
    manifest.found_source = known.source;
    manifest.found = found.collect();
    manifest.came_back = came_back.collect();
}

/// What a manifest says of it.
///
/// # Errors
/// An address is invalid.
pub(super) fn read(manifest: &Manifest) -> Result<Known, String> {
    let found = manifest.found.iter().map(|node| KnownFound {
        name: node.name.clone(),
        host: node.host.clone(),
        missing: node.missing_ms.map(Duration::from_millis),
    });
    let mut addresses: Vec<KnownAddresses> = Vec::new();
    for FoundAddress { node, asked, address } in &manifest.addresses {
        let address = socket_address(address)?;
        match addresses.last_mut() {
            Some(last) if (&last.node, &last.asked) == (node, asked) => last.addresses.push(address),
            _ => addresses.push(KnownAddresses {
                node: node.clone(),
                asked: asked.clone(),
                addresses: vec![address],
            }),
        }
    }
    let came_back = (manifest.came_back.iter()).map(|node| (node.node.clone(), Duration::from_millis(node.age_ms)));
    Ok(Known {
        source: manifest.found_source.clone(),
        found: found.collect(),
        addresses,
        came_back: came_back.collect(),
    })
}

/// An address as a message has it.
pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("an invalid address: {}", Escaped(text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_the_same_behind_a_manifest_and_an_invalid_address_is_refused() {
        let addresses = |node: &str, endpoint: u16| KnownAddresses {
            node: node.to_owned(),
            asked: format!("{node}.example:{endpoint}"),
            addresses: (1..=2).map(|host| ([192, 0, 2, host], endpoint).into()).collect(),
        };
        let known = Known {
            source: "dns emqx.example".to_owned(),
            found: vec![
                KnownFound {
                    name: "a".to_owned(),
                    host: Some("a.example".to_owned()),
                    missing: None,
                },
                KnownFound {
                    name: "b".to_owned(),
                    host: None,
                    missing: Some(Duration::from_millis(5)),
                },
            ],
            addresses: vec![addresses("a", 1883), addresses("a", 8083), addresses("b", 1883)],
            came_back: vec![("b".to_owned(), Duration::from_secs(3))],
        };
        let mut manifest = Manifest::default();
        write(known.clone(), &mut manifest);
        assert_eq!(read(&manifest), Ok(known));
        manifest.addresses[3].address = "a.example".to_owned();
        assert!(read(&manifest).is_err());
        assert_eq!(read(&Manifest::default()), Ok(Known::NOTHING));
    }
}
