//! Who asks, and what it may do: on the socket everything, on TCP what its token says.

use hyper::header::{AUTHORIZATION, HOST, ORIGIN};
use hyper::{HeaderMap, StatusCode};

use super::call::Refusal;
use crate::admin::peer::{By, Peer};
use crate::admin::tokens::{self, Scope, Token};

/// A caller that is known.
#[derive(Debug)]
pub(super) struct Caller {
    by: By,
    scope: Scope,
}

impl Caller {
    /// What it may do.
    pub(super) fn scope(&self) -> Scope {
        self.scope
    }

    /// Who it is, if it may do this.
    pub(super) fn may(self, wanted: Scope) -> Result<By, Refusal> {
        if self.scope < wanted {
            let (by, has, wanted) = (&self.by, self.scope.name(), wanted.name());
            let error =
                format!("{by} has the scope {has}, and this takes {wanted}: use a token with scope = \"{wanted}\"");
            return Err(Refusal::new(StatusCode::FORBIDDEN, error));
        }
        Ok(self.by)
    }
}

/// Who asks.
pub(super) fn caller(peer: &Peer, headers: &HeaderMap, tokens: &[Token]) -> Result<Caller, Refusal> {
    match peer {
        Peer::Unix { uid, pid } => Ok(Caller {
            by: By::Process { uid: *uid, pid: *pid },
            scope: Scope::Write,
        }),
        Peer::Tcp => {
            // Before the token: a page must not learn whether it has one.
            if !is_own_origin(headers) {
                let error = "a page of another origin asks: the control API is for no other host's pages";
                return Err(Refusal::new(StatusCode::FORBIDDEN, error));
            }
            if tokens.is_empty() {
                let error = "no token is configured, so that the control API is on the admin socket only: use that (remora ctl), or add \
                             tokens in [admin]";
                return Err(Refusal::new(StatusCode::FORBIDDEN, error));
            }
            let Some(token) = shown(headers).and_then(|shown| tokens::find(tokens, shown)) else {
                let error = "send a token of [admin], as `Authorization: Bearer TOKEN`";
                return Err(Refusal::new(StatusCode::UNAUTHORIZED, error));
            };
            Ok(Caller {
                by: By::Token(token.name.clone()),
                scope: token.scope,
            })
        }
    }
}

/// The token that a request shows (RFC 6750, section 2.1); none if it shows several.
fn shown(headers: &HeaderMap) -> Option<&[u8]> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let (field, None) = (fields.next()?.as_bytes(), fields.next()) else {
        return None;
    };
    let (scheme, token) = field.split_at_checked(b"bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Whether a request comes from no page of a browser, or from one of this listener itself.
fn is_own_origin(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).map(|host| host.as_bytes());
    headers.get_all(ORIGIN).iter().all(|origin| {
        let authority = origin.as_bytes().strip_prefix(b"http://");
        let authority = authority.or_else(|| origin.as_bytes().strip_prefix(b"https://"));
        authority.is_some_and(|authority| host.is_some_and(|host| host.eq_ignore_ascii_case(authority)))
    })
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;
    use crate::admin::tokens::Secret;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let request = fields.iter().fold(Request::get("/"), |request, (name, value)| {
            request.header(*name, *value)
        });
        request.body(()).expect("a request").headers().clone()
    }

    #[test]
    fn a_caller_on_tcp_is_who_its_token_says() {
        let tokens = [Token {
            name: "reader".to_owned(),
            scope: Scope::Read,
            secret: Secret::of_file(b"s3cret\n").expect("a secret"),
        }];
        let status = |fields: &[(&str, &str)], scope| {
            let caller = caller(&Peer::Tcp, &headers(fields), &tokens);
            caller
                .and_then(|caller| caller.may(scope))
                .map_err(|refusal| refusal.status.as_u16())
        };
        let by = Ok(By::Token("reader".to_owned()));
        for field in ["Bearer s3cret", "bearer s3cret", "BEARER  s3cret "] {
            assert!(
                status(&[("authorization", field)], Scope::Read) == by.clone().map_err(|()| 0),
                "{field}"
            );
        }
        assert_eq!(status(&[("authorization", "Bearer s3cret")], Scope::Write), Err(403));
        for field in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer s3cre",
            "Bearer s3cret2",
            "Basic s3cret",
            "s3cret",
            "Bearers3cret",
        ] {
            assert_eq!(status(&[("authorization", field)], Scope::Read), Err(401), "{field}");
        }
        assert_eq!(status(&[], Scope::Read), Err(401));
        let twice = [("authorization", "Bearer s3cret"), ("authorization", "Bearer s3cret")];
        assert_eq!(status(&twice, Scope::Read), Err(401));
        let none = caller(&Peer::Tcp, &headers(&[("authorization", "Bearer s3cret")]), &[]);
        assert_eq!(none.expect_err("no tokens").status, 403);
    }

    #[test]
    fn a_page_of_another_origin_is_refused_with_and_without_a_token() {
        let own = |origin: &str| is_own_origin(&headers(&[("host", "lb:9883"), ("origin", origin)]));
        assert!(own("http://lb:9883") && own("https://LB:9883"));
        for origin in [
            "http://evil.example",
            "http://lb",
            "http://lb:9884",
            "null",
            "",
            "http://lb:9883.evil.example",
        ] {
            assert!(!own(origin), "{origin}");
        }
        assert!(is_own_origin(&headers(&[])), "no browser");
        assert!(!is_own_origin(&headers(&[("origin", "http://lb:9883")])));
    }
}
