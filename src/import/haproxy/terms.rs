//! Conditions and sample expressions, as far as a balancer of MQTT can do the same.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::import::haproxy::syntax::Word;
use crate::import::units::network;

/// One test in a condition.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Test {
    /// The client's address.
    Source(Vec<IpNet>),
    /// The first packet is a CONNECT.
    IsMqtt,
    Counter(Counter),
    Path {
        paths: Vec<String>,
        /// Longer paths match as well.
        are_prefixes: bool,
    },
    /// The first bytes are a ClientHello.
    IsTls,
    Upgrade,
    Origin(Vec<String>),
    /// Always the same.
    Constant(bool),
    Unknown,
}

/// The rate or the number of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    Rate,
    Current,
}

/// A counter, and the number that it may not exceed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Counter {
    pub(super) of: Counted,
    /// The number of `track-sc`; without it, the client's address.
    pub(super) tracked: Option<u8>,
    /// The table that it names.
    pub(super) table: Option<String>,
    pub(super) most: u64,
}

/// A test, and whether it must fail.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Term {
    pub(super) is_negated: bool,
    pub(super) test: Test,
}

/// When a rule applies.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Condition {
    Always,
    /// All of these hold.
    All(Vec<Term>),
    /// `or`, or something that cannot be known.
    Other,
}

impl Condition {
    /// A condition of one test.
    pub(super) fn only(test: Test, is_negated: bool) -> Self {
        Self::All(vec![Term { is_negated, test }])
    }

    /// The condition for a request that is an upgrade, as every one is that is served.
    pub(super) fn of_upgrades(self) -> Self {
        match self {
            Self::All(mut terms) if terms.len() > 1 => {
                terms.retain(|term| term.is_negated || term.test != Test::Upgrade);
                if terms.is_empty() {
                    Self::Other
                } else {
                    Self::All(terms)
                }
            }
            other => other,
        }
    }
}

/// Named conditions: a name may be there several times, and any of them will do.
#[derive(Default)]
pub(super) struct Acls {
    named: BTreeMap<String, Vec<Test>>,
}

impl Acls {
    /// `acl NAME FETCH…`
    pub(super) fn add(&mut self, words: &[Word]) {
        if let [_, name, rest @ ..] = words {
            let texts: Vec<&str> = rest.iter().map(|word| &*word.text).collect();
            self.named.entry(name.text.clone()).or_default().push(test(&texts));
        }
    }

    fn test(&self, name: &str) -> Test {
        match name {
            "TRUE" => return Test::Constant(true),
            "FALSE" => return Test::Constant(false),
            "WEBSOCKET" => return Test::Upgrade,
            _ => {}
        }
        let Some(tests) = self.named.get(name) else {
            return Test::Unknown;
        };
        let mut tests = tests.iter().cloned();
        let first = tests.next().unwrap_or(Test::Unknown);
        tests.fold(first, |all, test| match (all, test) {
            (Test::Source(all), Test::Source(more)) => Test::Source([all, more].concat()),
            (
                Test::Path { paths, are_prefixes },
                Test::Path {
                    paths: more,
                    are_prefixes: too,
                },
            ) => Test::Path {
                paths: [paths, more].concat(),
                are_prefixes: are_prefixes || too,
            },
            (Test::Origin(all), Test::Origin(more)) => Test::Origin([all, more].concat()),
            (Test::Upgrade, Test::Upgrade) => Test::Upgrade,
            _ => Test::Unknown,
        })
    }

    /// What follows a rule: `if …`, `unless …`, or nothing.
    pub(super) fn condition(&self, words: &[Word]) -> Condition {
        let Some((first, rest)) = words.split_first() else {
            return Condition::Always;
        };
        let is_unless = match &*first.text {
            "if" => false,
            "unless" => true,
            _ => return Condition::Other,
        };
        let mut terms = Vec::new();
        let mut rest = rest.iter();
        while let Some(word) = rest.next() {
            let text = &*word.text;
            let bare = text.trim_start_matches('!');
            let mut is_negated = (text.len() - bare.len()) % 2 == 1;
            let bare = match bare {
                // `! name`
                "" => match rest.next() {
                    Some(word) => &*word.text,
                    None => return Condition::Other,
                },
                bare => bare,
            };
            let found = match bare {
                "or" | "||" => return Condition::Other,
                "{" => {
                    let inner: Vec<&str> = rest
                        .by_ref()
                        .map(|word| &*word.text)
                        .take_while(|text| *text != "}")
                        .collect();
                    test(&inner)
                }
                name => self.test(name),
            };
            is_negated ^= is_unless;
            terms.push(Term {
                is_negated,
                test: found,
            });
        }
        match (is_unless, terms.len()) {
            (_, 0) => Condition::Other,
            // Not all of them: that is one or another.
            (true, 2..) => Condition::Other,
            _ => Condition::All(terms),
        }
    }
}

/// A test by its words: a fetch, flags, an operator and patterns.
fn test(words: &[&str]) -> Test {
    let Some((fetch, rest)) = words.split_first() else {
        return Test::Unknown;
    };
    let mut patterns = Vec::new();
    let mut rest = rest.iter();
    let mut has_file = false;
    let (mut is_other_match, mut is_prefix) = (false, false);
    while let Some(word) = rest.next() {
        match *word {
            "-i" | "-n" | "-u" | "--" => {}
            "-f" | "-M" => {
                has_file = true;
                rest.next();
            }
            "-m" => match rest.next() {
                Some(&("str" | "ip")) => {}
                Some(&"beg") => is_prefix = true,
                _ => is_other_match = true,
            },
            word => patterns.push(word),
        }
    }
    if has_file || is_other_match {
        return Test::Unknown;
    }
    let small = fetch.to_ascii_lowercase();
    if small.contains("mqtt_is_valid") {
        return Test::IsMqtt;
    }
    if let Some(counter) = counter(fetch) {
        let most = match patterns[..] {
            ["gt", number] => number.parse().ok(),
            ["ge", number] => number.parse::<u64>().ok().map(|number| number.saturating_sub(1)),
            _ => None,
        };
        return most.map_or(Test::Unknown, |most| Test::Counter(Counter { most, ..counter }));
    }
    let owned = || patterns.iter().map(|pattern| (*pattern).to_owned()).collect::<Vec<_>>();
    match &*small {
        "src" => {
            let nets: Option<Vec<IpNet>> = patterns.iter().map(|pattern| network(pattern)).collect();
            nets.filter(|nets| !nets.is_empty()).map_or(Test::Unknown, Test::Source)
        }
        "path" | "path_beg" | "url_beg" | "path,lower" => Test::Path {
            paths: owned(),
            are_prefixes: is_prefix || small.ends_with("_beg"),
        },
        "req.ssl_hello_type" | "req_ssl_hello_type" if patterns == ["1"] => Test::IsTls,
        "always_true" => Test::Constant(true),
        "always_false" => Test::Constant(false),
        small if is_field(small, "upgrade") || is_field(small, "connection") => Test::Upgrade,
        small if is_field(small, "origin") && !is_prefix && !small.contains("_beg") => Test::Origin(owned()),
        _ => Test::Unknown,
    }
}

/// `hdr(upgrade)`, `req.hdr(upgrade)`, `hdr_beg(upgrade)` and the like.
fn is_field(fetch: &str, name: &str) -> bool {
    fetch.contains("hdr")
        && fetch
            .split_once('(')
            .is_some_and(|(_, inner)| inner.trim_end_matches(')').split(',').next() == Some(name))
}

/// `sc_conn_rate(0)`, `sc0_conn_rate`, `src_conn_rate(table)`, and the same of `conn_cur`.
fn counter(fetch: &str) -> Option<Counter> {
    let (name, arguments) = fetch.split_once('(').unwrap_or((fetch, ""));
    let name = name.to_ascii_lowercase();
    let of = match &*name {
        name if name.contains("conn_rate") => Counted::Rate,
        name if name.contains("conn_cur") => Counted::Current,
        _ => return None,
    };
    let mut arguments = arguments
        .split(')')
        .next()
        .unwrap_or_default()
        .split(',')
        .map(str::trim);
    let tracked = match name.starts_with("src_") {
        true => None,
        false => {
            let number = match name.strip_prefix("sc")?.split('_').next() {
                None | Some("") => arguments.next()?,
                Some(digit) => digit,
            };
            Some(number.parse().ok()?)
        }
    };
    let table = arguments.next().filter(|table| !table.is_empty()).map(str::to_owned);
    Some(Counter {
        of,
        tracked,
        table,
        most: 0,
    })
}

/// What an expression says of a client, as a value of `affinity.key`; `variables` are those that `set-var` sets.
pub(super) fn meaning(expression: &str, variables: &BTreeMap<String, String>) -> Option<&'static str> {
    /// Variables of variables; a circle ends here.
    const STEPS_MAX: usize = 8;
    let mut expression = expression.to_ascii_lowercase();
    for _ in 0..STEPS_MAX {
        let small = &*expression;
        if small.contains("mqtt_field_value") {
            return match small {
                small if small.contains("client_identifier") || small.contains("connack,18") => Some("client_id"),
                small if small.contains("username") => Some("username"),
                _ => None,
            };
        }
        let head = small.split([',', '(']).next().unwrap_or_default();
        match head {
            "src" => return Some("client_address"),
            "ssl_c_s_dn" | "ssl_c_i_dn" => return (head == "ssl_c_s_dn").then_some("certificate_cn"),
            "url_param" | "urlp" | "hdr" | "req.hdr" | "cookie" | "req.cook" => {
                let inner: String = small.chars().filter(char::is_ascii_alphanumeric).collect();
                return match &*inner {
                    inner if inner.contains("clientid") => Some("client_id"),
                    inner if inner.contains("username") => Some("username"),
                    _ => None,
                };
            }
            "var" => {
                let name = small.split_once('(')?.1.split([')', ',']).next()?;
                expression = variables.get(name)?.clone();
            }
            _ => return None,
        }
    }
    None
}
