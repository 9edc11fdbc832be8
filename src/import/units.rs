//! Durations, numbers and networks as nginx and HAProxy write them.

use std::net::IpAddr;

use ipnet::IpNet;

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The longest duration that Remora takes.
pub(super) const LONGEST: u64 = 500 * HOUR;

/// A duration of nginx in milliseconds: `30s`, `1h30m`, `60`.
pub(super) fn nginx_time(text: &str) -> Option<u64> {
    let units = |unit: &str| {
        Some(match unit {
            "" | "s" => SECOND,
            "ms" => 1,
            "m" => MINUTE,
            "h" => HOUR,
            "d" => DAY,
            "w" => 7 * DAY,
            "M" => 30 * DAY,
            "y" => 365 * DAY,
            _ => return None,
        })
    };
    time(text, units)
}

/// A duration of HAProxy in milliseconds, with what a bare number counts.
pub(super) fn haproxy_time(text: &str, bare: u64) -> Option<u64> {
    if let Some(micros) = text.strip_suffix("us") {
        return Some(micros.parse::<u64>().ok()?.div_ceil(1000));
    }
    let units = |unit: &str| {
        Some(match unit {
            "" => bare,
            "ms" => 1,
            "s" => SECOND,
            "m" => MINUTE,
            "h" => HOUR,
            "d" => DAY,
            _ => return None,
        })
    };
    time(text, units)
}

fn time(text: &str, unit_ms: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    let mut rest = text.trim();
    let mut sum = 0u64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        sum = sum.checked_add(number.checked_mul(unit_ms(&rest[..letters])?)?)?;
        rest = rest[letters..].trim_start();
    }
    Some(sum)
}

/// A duration in Remora's notation.
pub(super) fn duration(ms: u64) -> String {
    match ms {
        ms if ms > 0 && ms.is_multiple_of(HOUR) => format!("{}h", ms / HOUR),
        ms if ms > 0 && ms.is_multiple_of(MINUTE) => format!("{}m", ms / MINUTE),
        ms if ms.is_multiple_of(SECOND) => format!("{}s", ms / SECOND),
        ms => format!("{ms}ms"),
    }
}

/// A network, or a single address.
pub(super) fn network(text: &str) -> Option<IpNet> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let ip: IpAddr = address.trim_matches(['[', ']']).parse().ok()?;
    let net = match bits {
        None => IpNet::from(ip),
        Some(bits) => match bits.parse::<u8>() {
            Ok(bits) => IpNet::new(ip, bits).ok()?,
            Err(_) => IpNet::with_netmask(ip, bits.parse().ok()?).ok()?,
        },
    };
    // An IPv4 address in one of IPv6 is that address; a network of these that is larger than IPv4 has no meaning.
    let mapped = match net {
        IpNet::V6(net) => net.addr().to_ipv4_mapped(),
        IpNet::V4(_) => None,
    };
    match mapped {
        Some(ip) => IpNet::new(ip.into(), net.prefix_len().checked_sub(96)?)
            .ok()
            .map(|net| net.trunc()),
        None => Some(net.trunc()),
    }
}

/// A network in Remora's notation: an address alone has no prefix.
pub(super) fn network_text(net: &IpNet) -> String {
    match net.prefix_len() == net.max_prefix_len() {
        true => net.addr().to_string(),
        false => net.to_string(),
    }
}

/// A rule on addresses, in the order in which the original tries them: the first that matches decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule<T> {
    pub(super) is_allowed: bool,
    /// `None`: every address.
    pub(super) net: Option<IpNet>,
    pub(super) from: T,
}

/// The lists that mean the same as rules in order, and the rules that cannot be in them.
pub(super) struct Lists<T> {
    pub(super) allow: Vec<Rule<T>>,
    pub(super) deny: Vec<Rule<T>>,
    /// Exceptions that come before the refusal which they are exceptions of: `deny` goes before `allow` here.
    pub(super) lost: Vec<Rule<T>>,
    /// Rules behind one that matches every address.
    pub(super) unreached: Vec<Rule<T>>,
    pub(super) refuses_all: bool,
}

/// Turns rules in order into two lists of which `deny` goes first.
pub(super) fn lists<T: Copy>(rules: &[Rule<T>]) -> Lists<T> {
    let end = rules.iter().position(|rule| rule.net.is_none()).unwrap_or(rules.len());
    let is_open = rules.get(end).is_none_or(|rule| rule.is_allowed);
    let overlap = |a: &Rule<T>, b: &Rule<T>| match (&a.net, &b.net) {
        (Some(a), Some(b)) => a.contains(b) || b.contains(a),
        _ => true,
    };
    let before = &rules[..end];
    let mut found = Lists {
        allow: Vec::new(),
        deny: Vec::new(),
        lost: Vec::new(),
        unreached: rules.get(end + 1..).unwrap_or_default().to_vec(),
        refuses_all: false,
    };
    for (at, rule) in before.iter().enumerate() {
        let mut earlier = before[..at].iter();
        match (rule.is_allowed, is_open) {
            (true, false) => found.allow.push(*rule),
            // Allowed anyway, unless a later rule refuses it.
            (true, true)
                if before[at..]
                    .iter()
                    .any(|later| !later.is_allowed && overlap(rule, later)) =>
            {
                found.lost.push(*rule);
            }
            (true, true) => {}
            (false, true) => found.deny.push(*rule),
            (false, false) => {
                let exception = earlier
                    .find(|earlier| earlier.is_allowed && overlap(rule, earlier))
                    .copied();
                let is_needed = before[at..]
                    .iter()
                    .any(|later| later.is_allowed && overlap(rule, later));
                match exception {
                    _ if !is_needed => {}
                    Some(exception) => {
                        found.lost.push(exception);
                        found.deny.push(*rule);
                    }
                    None => found.deny.push(*rule),
                }
            }
        }
    }
    found.refuses_all = !is_open && found.allow.is_empty();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_both_programs_are_read_as_they_read_them() {
        for (text, ms) in [
            ("60", Some(60_000)),
            ("1h30m", Some(5_400_000)),
            ("1m 30s", Some(90_000)),
            ("500ms", Some(500)),
            ("1M", Some(30 * DAY)),
            ("", None),
            ("s", None),
            ("10x", None),
            ("99999999999999999999", None),
            ("18446744073709551615y", None),
        ] {
            assert_eq!(nginx_time(text), ms, "{text}");
        }
        for (text, ms) in [
            ("5000", Some(5000)),
            ("30m", Some(30 * MINUTE)),
            ("1500us", Some(2)),
            ("1w", None),
        ] {
            assert_eq!(haproxy_time(text, 1), ms, "{text}");
        }
        assert_eq!(haproxy_time("60", SECOND), Some(MINUTE));
        for (ms, text) in [
            (0, "0s"),
            (90_000, "90s"),
            (HOUR, "1h"),
            (1_500, "1500ms"),
            (DAY, "24h"),
        ] {
            assert_eq!(duration(ms), text);
        }
    }

    /// What the rules and the lists say of an address.
    fn agrees(rules: &[Rule<()>], address: &str) -> (bool, bool) {
        let net = network(address).expect("an address");
        let holds = |rule: &&Rule<()>| rule.net.is_none_or(|of| of.contains(&net));
        let first = rules.iter().find(holds).is_none_or(|rule| rule.is_allowed);
        let lists = lists(rules);
        let denied = lists.deny.iter().any(|rule| holds(&rule));
        let allowed = lists.allow.is_empty() && !lists.refuses_all || lists.allow.iter().any(|rule| holds(&rule));
        (first, allowed && !denied)
    }

    #[test]
    fn rules_in_order_become_lists_that_decide_the_same_or_are_reported() {
        let nets = ["10.0.0.0/8", "10.1.0.0/16", "10.1.1.1", "2001:db8::/32", "all"];
        let addresses = ["10.1.1.1", "10.1.1.2", "10.2.0.1", "192.0.2.1", "2001:db8::1"];
        let rule = |number: usize| Rule {
            is_allowed: number.is_multiple_of(2),
            net: network(nets[number / 2 % nets.len()]),
            from: (),
        };
        for number in 0..10_000 {
            let rules: Vec<_> = [1, 10, 100, 1000].map(|place| rule(number / place % 10)).to_vec();
            let lists = lists(&rules);
            for address in addresses {
                let (original, ours) = agrees(&rules, address);
                let is_fine = original == ours || !lists.lost.is_empty() && original && !ours;
                assert!(is_fine, "{address}: {original}, not {ours}, of {rules:?}");
            }
        }
    }
}
