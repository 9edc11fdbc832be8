//! The files that a configuration names.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::file;
use super::reader::{Field, NamedFile, Spanned};
use super::tls::{CertificateFiles, NodesTls};

/// The files that the keys of listeners, of `[nodes_tls]`, `[nodes_api]`, `[discovery]`, `[doctor]` and `[admin]` name, by key.
pub(super) fn named(
    listeners: &Field<Vec<Spanned<file::Listener>>>,
    nodes_tls: &Field<NodesTls>,
    nodes_api: &Field<file::NodesApi>,
    discovery: &Field<file::Discovery>,
    doctor: &Field<file::Doctor>,
    admin: &Field<file::Admin>,
) -> BTreeMap<String, PathBuf> {
    let of_pair = |pair: &CertificateFiles| [pair.chain.as_set().cloned(), pair.key.as_set().cloned()];
    let mut named: Vec<Option<Spanned<NamedFile>>> = Vec::new();
    for Spanned { value, .. } in listeners.as_set().into_iter().flat_map(|listeners| &listeners.value) {
        let certificates = value.certificates.as_set().into_iter().flat_map(|given| &given.value);
        named.extend(certificates.flat_map(|pair| of_pair(&pair.value)));
        named.extend([&value.client_ca, &value.client_crl].map(|given| given.as_set().cloned()));
    }
    if let Some(Spanned { value, .. }) = nodes_tls.as_set() {
        named.push(value.ca.as_set().cloned());
        named.extend(
            value
                .certificate
                .as_set()
                .into_iter()
                .flat_map(|pair| of_pair(&pair.value)),
        );
    }
    let tokens = admin.as_set().and_then(|admin| admin.value.tokens.as_set());
    for token in tokens.into_iter().flat_map(|tokens| &tokens.value) {
        named.push(token.value.file.as_set().cloned());
    }
    named.extend(admin.as_set().map(|admin| admin.value.peers_token.as_set().cloned()));
    named.extend(
        nodes_api
            .as_set()
            .map(|given| given.value.credentials.as_set().cloned()),
    );
    named.extend(discovery.as_set().map(|given| given.value.file.as_set().cloned()));
    named.extend(doctor.as_set().map(|given| given.value.credentials.as_set().cloned()));
    let named = named.into_iter().flatten();
    named.map(|Spanned { value, place }| (place.path, value.path)).collect()
}
