//! The keys about TLS, as meant: the files that they name are read here, so that what is wrong with one is told where it is
//! named.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use toml::de::DeValue;

use super::file;
use super::problem::{Place, Problem};
use super::reader::{Given, Leaf, Mismatch, Written, quoted, string, word};
use crate::accept::Tls;
use crate::cluster::NodeAddress;
use crate::tls::{
    Certificate, Clients, Door, Nodes, NodesOffer, Offer, Revocations, ToNode, Trust, Version,
    read_file,
};

/// A file, by its path; one that is not absolute begins where the configuration is.
pub(super) struct FilePath;

impl Leaf for FilePath {
    type Meaning = String;

    fn parse(value: &DeValue<'_>) -> Result<String, Mismatch> {
        let written = string(value, "a path", "a string such as \"/etc/remora/tls.pem\"")?;
        if written.is_empty() || written.contains('\0') {
            return Err(Mismatch::new(
                format!("{} is no path", quoted(written)),
                "write the path of a file in PEM",
            ));
        }
        Ok(written.to_owned())
    }
}

/// A host name or an IP address, as certificates have it.
pub(super) struct CertificateName;

impl Leaf for CertificateName {
    type Meaning = ServerName<'static>;

    fn parse(value: &DeValue<'_>) -> Result<Self::Meaning, Mismatch> {
        let written = string(value, "a name", "a string such as \"emqx.example.com\"")?;
        ServerName::try_from(written.to_owned()).map_err(|_| {
            Mismatch::new(
                format!(
                    "{} is neither a host name nor an IP address",
                    quoted(written)
                ),
                "write the name that is in the node's certificate",
            )
        })
    }
}

/// What becomes of TLS at a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TlsWord {
    Off,
    End,
    Pass,
}

impl Leaf for TlsWord {
    type Meaning = Self;

    fn parse(value: &DeValue<'_>) -> Result<Self, Mismatch> {
        word(
            value,
            &[("off", Self::Off), ("end", Self::End), ("pass", Self::Pass)],
        )
    }
}

impl Leaf for Version {
    type Meaning = Self;

    fn parse(value: &DeValue<'_>) -> Result<Self, Mismatch> {
        word(value, &[("1.2", Self::Tls12), ("1.3", Self::Tls13)])
    }
}

/// Who has to show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientsWord {
    Off,
    Optional,
    Required,
}

impl Leaf for ClientsWord {
    type Meaning = Self;

    fn parse(value: &DeValue<'_>) -> Result<Self, Mismatch> {
        word(
            value,
            &[
                ("off", Self::Off),
                ("optional", Self::Optional),
                ("required", Self::Required),
            ],
        )
    }
}

/// What a listener says of TLS.
pub(super) struct Listener {
    pub(super) tls: Written<TlsWord>,
    pub(super) certificates: Written<Vec<Given<file::Certificate>>>,
    pub(super) tls_min: Written<Version>,
    pub(super) client_certificates: Written<ClientsWord>,
    pub(super) client_ca: Written<String>,
    pub(super) client_crl: Written<String>,
    /// Where it is said.
    pub(super) place: Place,
}

impl Listener {
    /// The listener's TLS, for clients that speak `protocol` in it.
    pub(super) fn meant(
        self,
        protocol: &'static str,
        base: &Path,
        problems: &mut Vec<Problem>,
    ) -> Option<Tls> {
        match self.tls.as_given().map_or(TlsWord::Off, |tls| tls.value) {
            TlsWord::End => self
                .door(protocol, base, problems)
                .map(|door| Tls::End(Arc::new(door))),
            word => {
                self.note_keys_of_no_use(problems);
                (word == TlsWord::Pass).then_some(Tls::Pass)
            }
        }
    }

    /// What a listener says that needs a certificate of its own.
    fn note_keys_of_no_use(&self, problems: &mut Vec<Problem>) {
        let given = [
            self.certificates.as_given().map(|given| &given.place),
            self.tls_min
                .as_given()
                .filter(|given| given.value != Version::default())
                .map(|given| &given.place),
            self.client_certificates
                .as_given()
                .filter(|given| given.value != ClientsWord::Off)
                .map(|given| &given.place),
            self.client_ca.as_given().map(|given| &given.place),
            self.client_crl.as_given().map(|given| &given.place),
        ];
        for place in given.into_iter().flatten() {
            let problem = place.problem("means nothing where TLS does not end here");
            problems.push(problem.hint("add tls = \"end\", or leave the key out"));
        }
    }

    fn door(
        self,
        protocol: &'static str,
        base: &Path,
        problems: &mut Vec<Problem>,
    ) -> Option<Door> {
        let before = problems.len();
        let example = "certificates = [{ chain = \"tls.pem\", key = \"tls.key\" }]";
        let certificates: Vec<Certificate> = match self.certificates {
            Written::Absent => {
                let problem = self.place.below("certificates", self.place.span.clone());
                problems.push(problem.problem("is missing").hint(format!("add {example}")));
                Vec::new()
            }
            Written::Wrong => Vec::new(),
            Written::Given(Given { value, place }) => {
                if value.is_empty() {
                    problems.push(
                        place
                            .problem("there are none")
                            .hint(format!("write {example}")),
                    );
                }
                let read = |written| certificate(written, base, problems);
                value.into_iter().filter_map(read).collect()
            }
        };
        let word = self.client_certificates.or(ClientsWord::Off);
        let clients = match (word, &self.client_ca) {
            (ClientsWord::Off, _) => {
                let unused = [&self.client_ca, &self.client_crl];
                for given in unused.into_iter().filter_map(|written| written.as_given()) {
                    let problem = given
                        .place
                        .problem("means nothing while no client is asked");
                    let hint = "add client_certificates = \"required\" or \"optional\", or leave the key out";
                    problems.push(problem.hint(hint));
                }
                Clients::Off
            }
            (_, Written::Absent) => {
                let place = self.place.below("client_ca", self.place.span.clone());
                let hint = "add client_ca = \"ca.pem\": whose certificates clients may show";
                problems.push(place.problem("is missing").hint(hint));
                Clients::Off
            }
            (word, _) => {
                let trust = pem(self.client_ca, base, problems, Trust::from_pem);
                let revoked = pem(self.client_crl, base, problems, Revocations::from_pem);
                let trust = trust.unwrap_or_default();
                match word {
                    ClientsWord::Optional => Clients::Optional(trust, revoked),
                    ClientsWord::Off | ClientsWord::Required => Clients::Required(trust, revoked),
                }
            }
        };
        if problems.len() > before || certificates.is_empty() {
            return None;
        }
        let offer = Offer {
            certificates,
            version_min: self.tls_min.or_default(),
            clients,
            protocol,
        };
        match Door::new(offer) {
            Ok(door) => Some(door),
            Err(why) => {
                problems.push(self.place.problem(format!("no TLS: {why}")));
                None
            }
        }
    }
}

/// A chain and its key.
fn certificate(
    written: Given<file::Certificate>,
    base: &Path,
    problems: &mut Vec<Problem>,
) -> Option<Certificate> {
    let Given {
        value: file::Certificate { chain, key },
        place: table,
    } = written;
    let chain_is_missing = matches!(chain, Written::Absent);
    if chain_is_missing {
        let place = table.below("chain", table.span.clone());
        let hint =
            "add chain = \"tls.pem\": the certificate and those between it and its authority";
        problems.push(place.problem("is missing").hint(hint));
    }
    let key_is_wrong = matches!(key, Written::Wrong);
    let key_place = key.as_given().map(|given| given.place.clone());
    let chain = bytes(chain, base, problems);
    let key = match key {
        Written::Given(key) => Some(bytes(Written::Given(key), base, problems)?.1),
        // Both in one file, as HAProxy has them.
        Written::Absent | Written::Wrong => None,
    };
    let (place, chain) = chain?;
    if key_is_wrong {
        return None;
    }
    match Certificate::from_pem(&chain, key.as_deref().unwrap_or(&chain)) {
        Ok(certificate) => Some(certificate),
        Err(why) => {
            // What is wrong with a key is told at the key.
            let place = match key_place {
                Some(key_place) if why.contains("private key") => key_place,
                _ => place,
            };
            problems.push(place.problem(why));
            None
        }
    }
}

/// Reads the file that is named, and what is in it.
fn pem<T>(
    written: Written<String>,
    base: &Path,
    problems: &mut Vec<Problem>,
    read: impl Fn(&[u8]) -> Result<T, String>,
) -> Option<T> {
    let (place, bytes) = bytes(written, base, problems)?;
    match read(&bytes) {
        Ok(value) => Some(value),
        Err(why) => {
            problems.push(place.problem(why));
            None
        }
    }
}

/// What is in the file that is named.
fn bytes(
    written: Written<String>,
    base: &Path,
    problems: &mut Vec<Problem>,
) -> Option<(Place, Vec<u8>)> {
    let Written::Given(Given { value, place }) = written else {
        return None;
    };
    match read_file(&base.join(&value)) {
        Ok(bytes) => Some((place, bytes)),
        Err(error) => {
            let message = format!("{} cannot be read: {error}", quoted(&value));
            let hint = "a path that is not absolute begins where the configuration is";
            problems.push(place.problem(message).hint(hint));
            None
        }
    }
}

/// What holds for every node with TLS; none when something is wrong, which is noted then. `needed_at` is a node that needs it.
pub(super) fn nodes(
    written: Written<file::NodesTls>,
    needed_at: Option<&Place>,
    base: &Path,
    problems: &mut Vec<Problem>,
) -> Option<Nodes> {
    let place = written.as_given().map(|given| given.place.clone());
    let file::NodesTls {
        ca,
        certificate: shown,
        insecure_skip_verify,
    } = written.or_default();
    let insecure_skip_verify = insecure_skip_verify.or(false);
    if let (Written::Absent, false, Some(needed_at)) = (&ca, insecure_skip_verify, needed_at) {
        let problem = needed_at.problem("nobody says whose certificate to believe");
        problems.push(problem.hint("add [nodes_tls] with ca = \"ca.pem\""));
        return None;
    }
    let before = problems.len();
    let trust = pem(ca, base, problems, Trust::from_pem).unwrap_or_default();
    let shown = match shown {
        Written::Given(written) => certificate(written, base, problems),
        Written::Absent | Written::Wrong => None,
    };
    needed_at?;
    if problems.len() > before {
        return None;
    }
    let offer = NodesOffer {
        trust,
        certificate: shown,
        insecure_skip_verify,
    };
    match Nodes::new(offer) {
        Ok(nodes) => Some(nodes),
        Err(why) => {
            let place = place.or_else(|| needed_at.cloned())?;
            problems.push(place.problem(why));
            None
        }
    }
}

/// TLS to a node at `address`, whose certificate is for `name`, or for its host where that is not said.
pub(super) fn to_node(
    nodes: Option<&Nodes>,
    name: Option<&ServerName<'static>>,
    address: &NodeAddress,
) -> Option<Arc<ToNode>> {
    let host = || match address {
        NodeAddress::Socket(address) => Some(ServerName::from(address.ip())),
        NodeAddress::Host(host, _) => ServerName::try_from(host.clone()).ok(),
    };
    Some(Arc::new(ToNode {
        nodes: nodes?.clone(),
        server_name: name.cloned().or_else(host)?,
    }))
}
