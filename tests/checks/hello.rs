//! The ClientHello of a client whose TLS ends at the node.

use remora::net::tls::{Hello, HelloReader, NotTls};

/// What a ClientHello is taken for does not depend on how it is cut, and no server name is read that is not there.
pub(crate) fn hello(bytes: &[u8]) {
    let whole = read([bytes]);
    for piece in [1, 2, 5, 64] {
        assert_eq!(read(bytes.chunks(piece)), whole, "in pieces of {piece}");
    }
    let Ok(Some(Hello {
        server_name: Some(name),
    })) = whole
    else {
        return;
    };
    assert!(!name.is_empty() && name.len() <= 253, "{name}");
    assert!(name.bytes().all(|byte| byte.is_ascii_graphic()), "{name}");
    let handshake = without_records(bytes).to_ascii_lowercase();
    let name = name.to_ascii_lowercase();
    assert!(
        handshake.windows(name.len()).any(|window| window == name.as_bytes()),
        "{name}"
    );
}

/// The verdict on what comes in these pieces; bytes behind it are not looked at.
fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Option<Hello>, NotTls> {
    let mut reader = HelloReader::default();
    for piece in pieces {
        match reader.read(piece) {
            Ok(None) => {}
            decided => return decided,
        }
    }
    Ok(None)
}

/// What is in the records: a name may go on in the next.
fn without_records(mut bytes: &[u8]) -> Vec<u8> {
    let mut inside = Vec::new();
    while let [_, _, _, high, low, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        inside.extend_from_slice(&rest[..length]);
        bytes = &rest[length..];
    }
    inside
}
