//! The result as one screen for people.

use std::fmt::{self, Formatter};

use super::{Process, Quantiles, Report, Summary, rate};
use crate::compare;
use crate::units::{bytes_text, count_text, rate_text, time_text};

/// Most lines of failures of a run.
const FAILURES_SHOWN: usize = 8;

/// By how much latencies from due and from sent must differ to be worth two lines.
const DIFFERENCE_MIN: f64 = 1.05;

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.count == 0 {
            return write!(f, "none");
        }
        let shown = self.named().map(|(name, us)| format!("{name} {}", time_text(us)));
        f.write_str(&shown.join(", "))
    }
}

impl Quantiles {
    /// The quantiles in µs, with their names.
    pub(crate) fn named(&self) -> [(&'static str, f64); 5] {
        [
            ("p50", self.p50),
            ("p90", self.p90),
            ("p99", self.p99),
            ("p99.9", self.p999),
            ("max", self.max),
        ]
    }

    /// Whether another latency differs from this one by more than a reader would care for.
    pub(crate) fn differs(&self, other: &Self) -> bool {
        let pairs = self.named().into_iter().zip(other.named());
        pairs
            .into_iter()
            .any(|((_, one), (_, other))| one.max(other) > one.min(other) * DIFFERENCE_MIN)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.repetitions > 1 {
            f.write_str(&compare::spread(self))?;
        } else {
            for (index, run) in self.runs.iter().enumerate() {
                if index > 0 {
                    writeln!(f)?;
                }
                write!(f, "{run}")?;
            }
        }
        for missed in &self.missed {
            writeln!(f, "failed       {missed}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let connections = &self.connections;
        writeln!(
            f,
            "{}: {} clients against {}, {}{}",
            self.name,
            count_text(self.clients.into()),
            self.target,
            time_text(self.measured_s * 1e6),
            if self.interrupted { ", ended early" } else { "" }
        )?;
        writeln!(
            f,
            "connections  {} accepted, {} a second",
            count_text(connections.accepted),
            rate_text(connections.per_s)
        )?;
        writeln!(f, "  CONNACK    {}", connections.connack_us)?;
        self.write_tls(f)?;
        self.write_messages(f)?;
        self.write_returns(f)?;
        self.write_nodes(f)?;
        self.write_failures(f)?;
        if self.cut_off + self.cut_off_connects > 0 {
            writeln!(
                f,
                "cut off      {} messages and {} connects were under way or due at the end",
                count_text(self.cut_off),
                count_text(self.cut_off_connects)
            )?;
        }
        self.write_processes(f)
    }
}

impl Summary {
    /// What went wrong, most often first.
    pub(crate) fn write_failures(&self, f: &mut impl fmt::Write) -> fmt::Result {
        let mut failures: Vec<_> = self.failures.iter().collect();
        failures.sort_by_key(|failure| std::cmp::Reverse(failure.count));
        for failure in failures.iter().take(FAILURES_SHOWN) {
            let (kind, count, what) = (failure.kind, count_text(failure.count), &failure.what);
            writeln!(f, "error        {kind}: {count} ({what})")?;
        }
        let rest = failures.iter().skip(FAILURES_SHOWN).map(|failure| failure.count);
        match rest.sum() {
            0 => Ok(()),
            count => writeln!(f, "error        others: {}", count_text(count)),
        }
    }

    /// The latency from when messages were sent, where it differs from the one from when they were due.
    pub(crate) fn latency_from_send(&self) -> Option<&Quantiles> {
        let (due, sent) = (&self.messages.latency_us, &self.messages.latency_from_send_us);
        (due.count > 0 && due.differs(sent)).then_some(sent)
    }

    fn write_tls(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(tls) = &self.tls else {
            return Ok(());
        };
        let (full, resumed) = (count_text(tls.full), count_text(tls.resumed));
        write!(f, "handshakes   {full} full, {resumed} resumed")?;
        match &mut tls.agreed.iter() {
            agreed if agreed.len() == 1 => agreed.try_for_each(|(words, _)| write!(f, "; {words}")),
            agreed => agreed.try_for_each(|(words, count)| write!(f, "; {} with {words}", count_text(*count))),
        }?;
        writeln!(f)?;
        if tls.handshake_us.count > 0 {
            writeln!(f, "  TLS        {}", tls.handshake_us)?;
        }
        if let Some(problem) = &tls.problem {
            // It may contain names from a certificate, so controls are removed, and it is cut.
            let shown = problem.chars().filter(|c| !c.is_control()).take(200);
            let shown: String = shown.collect();
            writeln!(f, "  failed     first because of this: {shown}")?;
        }
        Ok(())
    }

    fn write_messages(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let messages = &self.messages;
        if messages.sent == 0 {
            return Ok(());
        }
        let per_s = rate(messages.received_bytes, self.measured_s);
        write!(f, "messages     {} sent, ", count_text(messages.sent))?;
        if messages.confirmed > 0 {
            write!(f, "{} confirmed, ", count_text(messages.confirmed))?;
        } else if messages.is_timed {
            write!(f, "{} received, ", count_text(messages.received))?;
        }
        write!(f, "{} a second", rate_text(messages.per_s))?;
        if per_s > 0.0 {
            write!(f, ", {}/s", bytes_text(per_s))?;
        }
        writeln!(f)?;
        if messages.latency_us.count > 0 {
            writeln!(f, "  latency    {}", messages.latency_us)?;
        }
        match self.latency_from_send() {
            Some(latency) => writeln!(f, "  from send  {latency}"),
            None => Ok(()),
        }
    }

    fn write_returns(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(returns) = &self.returns else {
            return Ok(());
        };
        let rounds: Vec<_> = returns.all_back_ms.iter().map(|ms| time_text(ms * 1e3)).collect();
        writeln!(
            f,
            "returns      {} after {} cuts; all back after {}",
            count_text(returns.count),
            rounds.len(),
            rounds.join(", ")
        )?;
        writeln!(f, "  each       {}", returns.latency_us)?;
        let same_node = returns.same_node_percent.map_or_else(
            || "unknown: the nodes do not report their names".to_owned(),
            |percent| format!("{percent:.2} %"),
        );
        writeln!(
            f,
            "  same node  {same_node}; session present {:.2} %",
            returns.session_present_percent
        )
    }

    fn write_nodes(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(problem) = &self.nodes_problem {
            writeln!(f, "nodes        unknown: {problem}")?;
        }
        let Some(balance) = self.balance_max_to_mean else {
            return Ok(());
        };
        // Names come from the network, so they are escaped and cut; a line holds only some of them.
        let mut shown: Vec<_> = self
            .nodes
            .iter()
            .map(|(name, count)| {
                let name: String = name.escape_debug().take(40).collect();
                format!("{name} {}", count_text(*count))
            })
            .collect();
        let more = shown.len().saturating_sub(8);
        shown.truncate(8);
        if more > 0 {
            shown.push(format!("{more} more"));
        }
        write!(f, "nodes        {}", shown.join(", "))?;
        if self.nodes.len() > 1 {
            write!(f, "; busiest {balance:.2} times the mean")?;
        }
        writeln!(f)
    }

    fn write_processes(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let accepted = self.connections.accepted.max(1) as f64;
        let (bench, asked_for) = match self.processes.split_last() {
            Some((bench, asked_for)) => (Some(bench), asked_for),
            None => (None, &[][..]),
        };
        for process in asked_for {
            let [start, end, settled] = process.rss_bytes.map(|bytes| bytes as f64);
            writeln!(
                f,
                "process {}  {} CPU; resident {}, {} at the end ({} a connection), {} after",
                process.pid,
                cpu(process),
                bytes_text(start),
                bytes_text(end),
                bytes_text((end - start).max(0.0) / accepted),
                bytes_text(settled),
            )?;
        }
        if let Some(bench) = bench {
            write!(f, "bench        {} CPU", cpu(bench))?;
            let messages = self.messages.received.max(self.messages.sent);
            if messages > 0 {
                writeln!(f, ", {} a message", time_text(bench.cpu_ms * 1e3 / messages as f64))?;
            } else if self.returns.is_none() && self.stays {
                let per_client =
                    |start: u64, end: u64| bytes_text(end.saturating_sub(start) as f64 / f64::from(self.clients));
                let [start, end, _] = bench.rss_bytes;
                let [slab_start, slab_end, _] = self.slab_bytes;
                writeln!(
                    f,
                    "; {} a client, and {} in the kernel, of both ends and what lies between",
                    per_client(start, end),
                    per_client(slab_start, slab_end),
                )?;
            } else {
                writeln!(f)?;
            }
        }
        if let Some(files) = &self.target_files {
            writeln!(
                f,
                "target       {:.1} files a client in process {}, which may have {}: {} clients fit",
                files.per_client,
                files.pid,
                count_text(files.limit),
                count_text(files.clients_max)
            )?;
        }
        Ok(())
    }
}

fn cpu(process: &Process) -> String {
    time_text(process.cpu_ms * 1e3)
}
