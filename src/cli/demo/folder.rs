//! The demo's folder in the temporary directory: what clients, the doctor and operators need, for as long as the demo runs.

use std::fs::{self, DirEntry, File};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::process::geteuid;

use remora::admin;
use remora::config::Config;
use remora::net::tls::throwaway::Authority;
use remora::net::tls::{self, Certificate, Clients, Offer, Version};
use remora::path::accept::Tls;

/// What the names of the demos' folders in the temporary directory begin with.
const FOLDER_PREFIX: &str = "remora-demo-";

/// The file in it with a configuration of the nodes, for the doctor.
const CONFIGURATION: &str = "remora.toml";

/// The admin socket in it.
const ADMIN_SOCKET: &str = "admin.sock";

/// The file in it with the certificate of the authority.
const AUTHORITY: &str = "ca.pem";

/// The folder, with a certificate for TLS clients that is created anew each time. Removed at the end.
pub(super) struct Folder {
    certificate: Certificate,
    /// The file with the certificate of its authority, for clients.
    pub(super) authority: PathBuf,
    /// That file, locked for as long as this process lives, however it ends.
    _lock: File,
}

impl Folder {
    pub(super) fn new(addresses: &[SocketAddr]) -> io::Result<Self> {
        let addresses: Vec<String> = addresses.iter().map(|a| a.ip().to_string()).collect();
        let mut names = vec!["localhost", "127.0.0.1", "::1"];
        names.extend(addresses.iter().map(String::as_str));
        remove_abandoned();
        let authority = Authority::new().map_err(io::Error::other)?;
        let pair = authority.server(&names).map_err(io::Error::other)?;
        let certificate = Certificate::from_pem(pair.chain.as_bytes(), pair.key.as_bytes());
        let folder = format!("{FOLDER_PREFIX}{:08x}", fastrand::u32(..));
        let folder = std::env::temp_dir().join(folder);
        let path = folder.join(AUTHORITY);
        // Fails if the folder exists: another user could have put other files there.
        let created = fs::DirBuilder::new().mode(0o755).create(&folder);
        let written = created.and_then(|()| {
            let mut file = File::create_new(&path)?;
            file.try_lock()?;
            file.write_all(authority.pem().as_bytes())?;
            Ok(file)
        });
        let file = written.map_err(|error| {
            let text = format!(
                "cannot write {} for the demo's TLS clients: {error}; set TMPDIR to a folder with room that may be written to",
                path.display()
            );
            io::Error::new(error.kind(), text)
        })?;
        Ok(Self {
            certificate: certificate.map_err(io::Error::other)?,
            authority: path,
            _lock: file,
        })
    }

    /// Where a socket of this name can be; `None` where the path would be too long for one.
    pub(super) fn socket(&self, name: &str) -> Option<PathBuf> {
        let path = self.authority.with_file_name(name);
        net::SocketAddr::from_pathname(&path).is_ok().then_some(path)
    }

    /// Where the admin socket is.
    pub(super) fn admin_socket(&self) -> admin::Socket {
        self.socket(ADMIN_SOCKET).map(admin::Socket::At).unwrap_or_default()
    }

    /// Writes a configuration with these nodes, for the doctor. Its listener is that of the demo.
    pub(super) fn configure(&self, config: &Config, listener: SocketAddr) -> io::Result<PathBuf> {
        let mut text = format!("[[listeners]]\naddress = \"{listener}\"\n");
        for node in &config.nodes {
            let (name, address) = (&node.name, &node.endpoints.mqtt.address);
            text += &format!("\n[[nodes]]\nname = \"{name}\"\naddress = \"{address}\"\n");
        }
        let path = self.authority.with_file_name(CONFIGURATION);
        File::create_new(&path)?.write_all(text.as_bytes())?;
        Ok(path)
    }

    /// The TLS of a listener, with this ALPN protocol.
    pub(super) fn tls(&self, protocol: &'static str) -> io::Result<Option<Tls>> {
        let offer = Offer {
            certificates: vec![self.certificate.clone()],
            version_min: Version::default(),
            clients: Clients::Off,
            protocol,
            record_max: None,
        };
        let acceptor = tls::Acceptor::new(offer).map_err(io::Error::other)?;
        Ok(Some(Tls::End(Arc::new(acceptor))))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Some(folder) = self.authority.parent() {
            // It may already have been removed.
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// The folders of this user's demos, and of those that have left theirs behind.
pub(super) fn own() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else {
        return Vec::new();
    };
    let is_own = |entry: &DirEntry| {
        let own = |found: fs::Metadata| found.is_dir() && found.uid() == geteuid().as_raw();
        // Not that of what a link leads to.
        entry.file_name().to_string_lossy().starts_with(FOLDER_PREFIX) && entry.metadata().is_ok_and(own)
    };
    let mut own: Vec<_> = entries.flatten().filter(is_own).map(|entry| entry.path()).collect();
    own.sort();
    own
}

/// Removes what demos of this user have left that could not do so themselves, because they were killed.
fn remove_abandoned() {
    for folder in own() {
        if File::open(folder.join(AUTHORITY)).is_ok_and(|file| file.try_lock().is_ok()) {
            // Another demo may be removing it too.
            let _ = fs::remove_dir_all(folder);
        }
    }
}
