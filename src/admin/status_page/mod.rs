//! The status page at `/`: one document without a request to anywhere else, whose script asks the API; and a first look in plain HTML,
//! for those who have no script.
//!
//! Everything in it that is not of this file or of the files beside it is escaped.

mod first_look;
mod html;

use hyper::header::{CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use hyper::{Response, StatusCode};
use rustix::rand::{GetRandomFlags, getrandom};

use super::api::Look;
use super::body::{Body, plain, whole};

/// The document; names in doubled braces stand for what is different each time.
const DOCUMENT: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page, with what its reader may see at a first look.
pub(super) fn page(look: &Look) -> Response<Body> {
    let Some(nonce) = nonce() else {
        return plain(StatusCode::INTERNAL_SERVER_ERROR, "the system has no random bytes\n");
    };
    let (is_fine, sentence) = first_look::sentence(look);
    let (word, class) = match is_fine {
        Some(true) => ("Fine", "fine"),
        Some(false) => ("Not fine", "wrong"),
        None => ("Unknown", "unknown"),
    };
    let sentence = html::escaped(sentence);
    let first = first_look::html(look);
    let document = html::fill(DOCUMENT, |name| match name {
        "nonce" => &nonce,
        "style" => STYLE,
        "script" => SCRIPT,
        "word" => word,
        "class" => class,
        "sentence" => &sentence,
        "first" => &first,
        _ => "",
    });
    let mut response = whole(StatusCode::OK, "text/html; charset=utf-8", document);
    // Nothing is loaded from anywhere, nothing inline runs but the page's own script, and no other page may frame it.
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'"
    );
    let fields = response.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        fields.insert(CONTENT_SECURITY_POLICY, policy);
    }
    for (name, value) in [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        fields.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// What only this answer's own script and style know.
fn nonce() -> Option<String> {
    let mut bytes = [0; 16];
    let filled = getrandom(&mut bytes, GetRandomFlags::empty()).ok()?;
    (filled == bytes.len()).then(|| format!("{:032x}", u128::from_ne_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_its_parts_need_no_other_file_and_no_inline_handler() {
        let parts = [DOCUMENT, STYLE, SCRIPT];
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        assert!(bytes <= 90 * 1024, "{bytes} bytes");
        for part in parts {
            let lower = part.to_lowercase();
            for forbidden in [
                "innerhtml",
                "outerhtml",
                "insertadjacenthtml",
                "document.write",
                "eval(",
                " onclick",
                " onload",
                " style=",
                "url(",
                "@import",
                "//cdn",
            ] {
                assert!(!lower.contains(forbidden), "{forbidden}");
            }
            // Those of namespaces are no requests.
            let outside = lower.replace("http://www.w3.org/2000/svg", "");
            assert!(!outside.contains("http://") && !outside.contains("https://"));
        }
        assert_eq!(SCRIPT.matches("</script").count() + STYLE.matches("</style").count(), 0);
    }

    #[test]
    fn each_page_has_a_nonce_of_its_own() {
        let policy = || {
            let page = page(&Look::Starting);
            let policy = page.headers()[CONTENT_SECURITY_POLICY]
                .to_str()
                .expect("text")
                .to_owned();
            assert!(!policy.contains("unsafe"), "{policy}");
            policy
        };
        assert_ne!(policy(), policy());
    }
}
