//! The keys about TLS. Reads the files that they name, so that a problem with a file is reported at its key.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use toml::de::DeValue;

use super::expiry;
use super::meant::Url;
use super::problem::{Place, Problem};
use super::reader::{
    Choice, Entries, Field, Leaf, Mismatch, Named, NamedFile, Reader, Shape, Spanned, Value, quoted, string, table,
};
use super::words::suggested;
use crate::cluster::{EndpointTls, NodeAddress};
use crate::net::tls::{
    Acceptor, Certificate, Clients, Nodes, NodesOffer, Offer, Revocations, ServerName, Trust, Version, read_file,
};
use crate::path::accept::Tls;

/// The path of a file.
pub(super) struct FilePath;

impl Leaf for FilePath {
    type Output = String;

    fn parse(value: &DeValue<'_>) -> Result<String, Mismatch> {
        let written = string(value, "a path", "a string such as \"/etc/remora/tls.pem\"")?;
        if written.is_empty() || written.contains('\0') {
            return Err(Mismatch::new(
                format!("{} is not a path", quoted(written)),
                "write the path of a file in PEM",
            ));
        }
        Ok(written.to_owned())
    }
}

/// A host name or an IP address, as in certificates.
pub(super) struct CertificateName;

impl Leaf for CertificateName {
    type Output = ServerName<'static>;

    fn parse(value: &DeValue<'_>) -> Result<Self::Output, Mismatch> {
        let written = string(value, "a name", "a string such as \"emqx.example.com\"")?;
        ServerName::try_from(written.to_owned()).map_err(|_| {
            let host = Url::of(written).host;
            let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
            let hint = match ServerName::try_from(host) {
                Ok(_) => format!("write {}", suggested(host)),
                Err(_) => "write the name that is in the node's certificate".to_owned(),
            };
            Mismatch::new(
                format!("{} is neither a host name nor an IP address", quoted(written)),
                hint,
            )
        })
    }
}

/// How a listener handles TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TlsWord {
    Off,
    End,
    Pass,
}

impl Choice for TlsWord {
    type Meaning = Self;
    const WORDS: &'static [(&'static str, Self)] = &[("off", Self::Off), ("end", Self::End), ("pass", Self::Pass)];

    fn meant(word: &str) -> Option<String> {
        match word {
            "true" | "on" | "yes" | "terminate" | "termination" | "offload" | "enabled" => Some("\"end\"".to_owned()),
            "false" | "no" | "none" | "disabled" => Some("\"off\"".to_owned()),
            "passthrough" | "pass-through" | "preread" => Some("\"pass\"".to_owned()),
            _ => None,
        }
    }
}

impl Choice for Version {
    type Meaning = Self;
    const WORDS: &'static [(&'static str, Self)] = &[("1.2", Self::Tls12), ("1.3", Self::Tls13)];

    fn meant(word: &str) -> Option<String> {
        let version = word.trim_start_matches("tls").trim_start_matches(['v', ' ', '_']);
        matches!(version, "1.2" | "1.3").then(|| format!("\"{version}\""))
    }
}

/// Whether clients must present a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientsWord {
    Off,
    Optional,
    Required,
}

impl Choice for ClientsWord {
    type Meaning = Self;
    const WORDS: &'static [(&'static str, Self)] = &[
        ("off", Self::Off),
        ("optional", Self::Optional),
        ("required", Self::Required),
    ];

    fn meant(word: &str) -> Option<String> {
        match word {
            "true" | "on" | "yes" | "verify_peer" => Some("\"required\"".to_owned()),
            "false" | "no" | "none" | "verify_none" => Some("\"off\"".to_owned()),
            _ => None,
        }
    }
}

/// What an expired list of revoked certificates means for the clients of its authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExpiredWord {
    Accept,
    Refuse,
}

impl Choice for ExpiredWord {
    type Meaning = Self;
    const WORDS: &'static [(&'static str, Self)] = &[("accept", Self::Accept), ("refuse", Self::Refuse)];
}

table! {
    /// One of a listener's `certificates`, or the certificate that is presented to nodes.
    CertificateFiles {
        chain: Named<FilePath>,
        key: Named<FilePath>,
    }
}

table! {
    /// `[nodes_tls]`
    NodesTls {
        ca: Named<FilePath>,
        certificate: CertificateFiles,
        common_names: bool,
        insecure_skip_verify: bool,
    }
}

/// The TLS keys of a listener.
pub(super) struct Listener {
    pub(super) tls: Field<TlsWord>,
    pub(super) certificates: Field<Vec<Spanned<CertificateFiles>>>,
    pub(super) tls_min: Field<Version>,
    pub(super) client_certificates: Field<ClientsWord>,
    pub(super) client_ca: Field<NamedFile>,
    pub(super) client_crl: Field<NamedFile>,
    pub(super) client_crl_expired: Field<ExpiredWord>,
    pub(super) tls_record_max: Field<usize>,
    /// The place of the listener's table.
    pub(super) place: Place,
}

impl Listener {
    /// The listener's TLS, with this ALPN protocol.
    pub(super) fn resolve(self, protocol: &'static str, problems: &mut Vec<Problem>) -> Option<Tls> {
        match self.tls.as_set().map_or(TlsWord::Off, |tls| tls.value) {
            TlsWord::End => self
                .acceptor(protocol, problems)
                .map(|acceptor| Tls::End(Arc::new(acceptor))),
            word => {
                self.note_unused_keys(problems);
                (word == TlsWord::Pass).then_some(Tls::Pass)
            }
        }
    }

    /// Notes keys that have no effect without `tls = "end"`.
    fn note_unused_keys(&self, problems: &mut Vec<Problem>) {
        let given = [
            self.certificates.as_set().map(|given| &given.place),
            self.tls_min
                .as_set()
                .filter(|given| given.value != Version::default())
                .map(|given| &given.place),
            self.client_certificates
                .as_set()
                .filter(|given| given.value != ClientsWord::Off)
                .map(|given| &given.place),
            self.client_ca.as_set().map(|given| &given.place),
            self.client_crl.as_set().map(|given| &given.place),
            self.given_refusal(),
            self.tls_record_max.as_set().map(|given| &given.place),
        ];
        for place in given.into_iter().flatten() {
            let problem = place.problem("has no effect unless tls = \"end\"");
            problems.push(problem.hint("add tls = \"end\", or leave the key out"));
        }
    }

    /// The place of `client_crl_expired`, if that is not the default.
    fn given_refusal(&self) -> Option<&Place> {
        let given = self.client_crl_expired.as_set();
        given
            .filter(|given| given.value == ExpiredWord::Refuse)
            .map(|given| &given.place)
    }

    fn acceptor(self, protocol: &'static str, problems: &mut Vec<Problem>) -> Option<Acceptor> {
        let before = problems.len();
        let refusal = self.given_refusal().cloned();
        let example = "certificates = [{ chain = \"tls.pem\", key = \"tls.key\" }]";
        let certificates: Vec<Certificate> = match self.certificates {
            Field::Absent => {
                let problem = self.place.below("certificates", self.place.span.clone());
                problems.push(problem.problem("is missing").hint(format!("add {example}")));
                Vec::new()
            }
            Field::Invalid => Vec::new(),
            Field::Set(Spanned { value, place }) => {
                if value.is_empty() {
                    problems.push(
                        place
                            .problem("at least one is required")
                            .hint(format!("write {example}")),
                    );
                }
                let read = |written| certificate(written, "clients", problems);
                value.into_iter().filter_map(read).collect()
            }
        };
        let word = self.client_certificates.or(ClientsWord::Off);
        let clients = match (word, &self.client_ca) {
            (ClientsWord::Off, _) => {
                let unused = [&self.client_ca, &self.client_crl].map(|written| Some(&written.as_set()?.place));
                for place in unused.into_iter().chain([refusal.as_ref()]).flatten() {
                    let problem = place.problem("has no effect while client_certificates = \"off\"");
                    let hint = "add client_certificates = \"required\" or \"optional\", or leave the key out";
                    problems.push(problem.hint(hint));
                }
                Clients::Off
            }
            (_, Field::Absent) => {
                let place = self.place.below("client_ca", self.place.span.clone());
                let hint = "add client_ca = \"ca.pem\", the authorities that client certificates may come from";
                problems.push(place.problem("is missing").hint(hint));
                Clients::Off
            }
            (word, _) => {
                let place = self.client_ca.as_set().map(|given| given.place.clone());
                let trust = pem(self.client_ca, problems, Trust::from_pem);
                if let (Some(place), Some(bytes)) = (place, trust.as_ref().and_then(Trust::names_too_long)) {
                    let message =
                        format!("the authorities have names of {bytes} bytes, so clients are told none of them");
                    let hint = "clients with several certificates then choose by themselves; name only authorities of clients here";
                    problems.push(place.problem(message).hint(hint).warning());
                }
                if let (Field::Absent, Some(place)) = (&self.client_crl, &refusal) {
                    let problem = place.problem("has no effect without client_crl");
                    problems.push(problem.hint("add client_crl, or leave the key out"));
                }
                let crl = self.client_crl.as_set().cloned();
                let revoked = pem(self.client_crl, problems, Revocations::from_pem)
                    .map(|lists| lists.that_must_be_current(refusal.is_some()));
                if let (Some(Spanned { value, place }), Some(expires)) =
                    (crl, revoked.as_ref().and_then(Revocations::expires))
                {
                    let now = SystemTime::now();
                    problems.extend(expiry::of_lists(
                        &place,
                        &value.written,
                        expires,
                        refusal.is_some(),
                        now,
                    ));
                }
                let trust = trust.unwrap_or_default();
                match word {
                    ClientsWord::Optional => Clients::Optional(trust, revoked),
                    ClientsWord::Off | ClientsWord::Required => Clients::Required(trust, revoked),
                }
            }
        };
        if !are_warnings(&problems[before..]) || certificates.is_empty() {
            return None;
        }
        let offer = Offer {
            certificates,
            version_min: self.tls_min.or_default(),
            clients,
            protocol,
            record_max: self.tls_record_max.value(),
        };
        match Acceptor::new(offer) {
            Ok(acceptor) => Some(acceptor),
            Err(why) => {
                problems.push(self.place.problem(format!("TLS cannot be set up: {why}")));
                None
            }
        }
    }
}

/// Reads a chain and its key; `shown_to` are those who check it.
fn certificate(written: Spanned<CertificateFiles>, shown_to: &str, problems: &mut Vec<Problem>) -> Option<Certificate> {
    let Spanned {
        value: CertificateFiles { chain, key },
        place: table,
    } = written;
    let chain_is_missing = matches!(chain, Field::Absent);
    if chain_is_missing {
        let place = table.below("chain", table.span.clone());
        let hint = "add chain = \"tls.pem\": the certificate and those between it and its authority";
        problems.push(place.problem("is missing").hint(hint));
    }
    let key_is_wrong = matches!(key, Field::Invalid);
    let key_file = key.as_set().or(chain.as_set()).cloned();
    let key_place = key.as_set().map(|given| given.place.clone());
    let chain_file = chain.as_set().map(|given| given.value.clone());
    let chain = bytes(chain, problems);
    let key = match key {
        Field::Set(key) => Some(bytes(Field::Set(key), problems)?.1),
        // Without `key`, both are in one file, as with HAProxy. Folders are listed before.
        Field::Absent | Field::Invalid => None,
    };
    let ((place, chain), chain_file) = (chain?, chain_file?);
    if key_is_wrong {
        return None;
    }
    match Certificate::from_pem(&chain, key.as_deref().unwrap_or(&chain)) {
        Ok(certificate) => {
            problems.extend(key_file.and_then(|file| exposed(&file)));
            let now = SystemTime::now();
            problems.extend(certificate.validity().filter_map(|(number, from, until)| {
                let validity = expiry::Validity { number, from, until };
                expiry::of_certificate(&place, &chain_file.written, validity, shown_to, now)
            }));
            if let Some(number) = certificate.out_of_order() {
                let message = format!("certificate {number} of the chain has not issued the one before it");
                let message = of_file(&chain_file, &message);
                let hint = "write the server's own certificate first, then the one that issued it, and so on: many clients do not sort";
                problems.push(place.problem(message).hint(hint).warning());
            }
            Some(certificate)
        }
        Err(why) => {
            // A problem with a private key is reported at its key.
            let (place, file) = match (key_place, key_file) {
                (Some(key_place), Some(file)) if why.contains("private key") => (key_place, file.value),
                _ => (place, chain_file),
            };
            problems.push(with_command(&place, &of_file(&file, &why), &file.path));
            None
        }
    }
}

/// What is wrong with a file; its name is in it if the key does not say it.
fn of_file(file: &NamedFile, wrong: &str) -> String {
    match file.is_of_folder {
        true => format!("{}: {wrong}", quoted(&file.written)),
        false => wrong.to_owned(),
    }
}

/// A problem with a file, with what would do as its hint; a command is for this file.
fn with_command(place: &Place, why: &str, file: &Path) -> Problem {
    let hints = [": convert it with ", ": decrypt it with ", ": save it as "];
    let Some(at) = hints.iter().find_map(|hint| why.find(hint)) else {
        return place.problem(why);
    };
    let (message, hint) = (&why[..at], &why[at + ": ".len()..]);
    let file = in_shell(&file.display().to_string());
    place.problem(message).hint(hint.replace("FILE", &file))
}

/// A word for a shell.
fn in_shell(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+=@:,".contains(&byte);
    match !word.is_empty() && word.bytes().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// Warns of a private key that every user of the machine can read or replace. That a group can is usual: the service is in it.
fn exposed(file: &Spanned<NamedFile>) -> Option<Problem> {
    const OTHERS_READ_OR_WRITE: u32 = 0o006;
    let metadata = fs::metadata(&file.value.path).ok()?;
    if metadata.permissions().mode() & OTHERS_READ_OR_WRITE == 0 {
        return None;
    }
    let message = format!(
        "{}, a private key, is open to every user of this machine",
        quoted(&file.value.written)
    );
    let hint = "chmod o= it, and let only root and a group of this service read it";
    Some(file.place.problem(message).hint(hint).warning())
}

/// Whether none of these problems keeps the configuration from being used.
fn are_warnings(problems: &[Problem]) -> bool {
    !problems.iter().any(Problem::refuses)
}

/// Reads the file that a key names, and parses it.
fn pem<T>(
    written: Field<NamedFile>,
    problems: &mut Vec<Problem>,
    read: impl Fn(&[u8]) -> Result<T, String>,
) -> Option<T> {
    let file = written
        .as_set()
        .map(|given| given.value.path.clone())
        .unwrap_or_default();
    let (place, bytes) = bytes(written, problems)?;
    match read(&bytes) {
        Ok(value) => Some(value),
        Err(why) => {
            problems.push(with_command(&place, &why, &file));
            None
        }
    }
}

/// Reads the file that a key names.
pub(super) fn bytes(written: Field<NamedFile>, problems: &mut Vec<Problem>) -> Option<(Place, Vec<u8>)> {
    let Field::Set(Spanned { value, place }) = written else {
        return None;
    };
    match read_file(&value.path) {
        Ok(bytes) => Some((place, bytes)),
        Err(error) => {
            let message = format!("{} cannot be read: {error}", quoted(&value.written));
            problems.push(place.problem(message).hint(unread(&value, error.kind())));
            None
        }
    }
}

/// What to do about a file that cannot be read.
fn unread(NamedFile { written, path, .. }: &NamedFile, why: ErrorKind) -> String {
    let file = in_shell(&path.display().to_string());
    match why {
        _ if written.starts_with('~') || written.starts_with('$') => {
            "write the path in full, or with a variable in braces, as in \"${HOME}/tls.pem\"".to_owned()
        }
        ErrorKind::PermissionDenied => {
            format!(
                "let the user of this process read {file} and pass its directories: mode 0640, and a group that the user is in"
            )
        }
        ErrorKind::IsADirectory => "write the path of a file in PEM".to_owned(),
        _ if Path::new(written).is_absolute() => "write the path of a file that is there".to_owned(),
        _ => format!("a relative path starts in the directory of the configuration file: this is {file}"),
    }
}

/// The TLS settings for all nodes. If there is a problem, notes it and returns `None`. `needed_at` is a node that needs them.
pub(super) fn nodes(written: Field<NodesTls>, needed_at: Option<&Place>, problems: &mut Vec<Problem>) -> Option<Nodes> {
    let place = written.as_set().map(|given| given.place.clone());
    let NodesTls {
        ca,
        certificate: shown,
        common_names,
        insecure_skip_verify,
    } = written.or_default();
    let insecure_skip_verify = insecure_skip_verify.or(false);
    if let (Field::Absent, false, Some(needed_at)) = (&ca, insecure_skip_verify, needed_at) {
        let problem = needed_at.problem("no certificate authority is configured for this node");
        problems.push(problem.hint("add [nodes_tls] with ca = \"ca.pem\""));
        return None;
    }
    let before = problems.len();
    let trust = pem(ca, problems, Trust::from_pem).unwrap_or_default();
    let shown = match shown {
        Field::Set(written) => certificate(written, "nodes", problems),
        Field::Absent | Field::Invalid => None,
    };
    needed_at?;
    if !are_warnings(&problems[before..]) {
        return None;
    }
    let offer = NodesOffer {
        trust,
        certificate: shown,
        common_names: common_names.or(false),
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

/// TLS to a node at `address`, whose certificate must be for `name`, or for the host of `address` if there is no `name`.
pub(super) fn to_node(
    nodes: Option<&Nodes>,
    name: Option<&ServerName<'static>>,
    address: &NodeAddress,
) -> Option<EndpointTls> {
    let host = || match address {
        NodeAddress::Socket(address) => Some(ServerName::from(address.ip())),
        NodeAddress::Host(host, _) => ServerName::try_from(host.clone()).ok(),
    };
    Some(EndpointTls {
        is_verified: !nodes?.is_insecure(),
        server_name: name.cloned().or_else(host)?.to_str().into(),
    })
}
