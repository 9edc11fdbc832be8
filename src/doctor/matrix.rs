//! What became of messages between each two nodes. No I/O: what was seen is passed in.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// The two kinds of messages that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Qos {
    /// Sent once, acknowledged by nobody.
    Zero,
    /// Acknowledged.
    One,
}

impl Qos {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Zero, Self::One];

    /// The number in the standard.
    pub const fn number(self) -> u8 {
        match self {
            Self::Zero => 0,
            Self::One => 1,
        }
    }
}

/// Messages of one kind from one node to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// Messages that should have arrived.
    pub sent: u32,
    /// How long each took that arrived, the shortest first.
    took: Vec<Duration>,
}

impl Cell {
    /// Messages that arrived.
    pub fn delivered(&self) -> u32 {
        // No more than were sent.
        self.took.len() as u32
    }

    /// Those that took longer than `slow_after`.
    pub fn late(&self, slow_after: Duration) -> u32 {
        let in_time = self.took.partition_point(|took| *took <= slow_after);
        self.delivered() - in_time as u32
    }

    /// The time within which so many percent of those arrived that arrived at all.
    pub fn percentile(&self, percent: usize) -> Option<Duration> {
        let rank = (self.took.len() * percent).div_ceil(100).max(1);
        self.took.get(rank - 1).copied()
    }

    fn note(&mut self, took: Option<Duration>) {
        self.sent += 1;
        if let Some(took) = took {
            let place = self.took.partition_point(|other| *other <= took);
            self.took.insert(place, took);
        }
    }
}

/// What is known of the way from one node to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Nothing was sent that could have arrived.
    Unmeasured,
    /// Nothing arrived.
    None,
    /// Some messages arrived.
    Some,
    /// All arrived.
    All,
}

impl Way {
    /// Whether anything arrived.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Some | Self::All)
    }
}

/// Each two of these nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matrix {
    names: Vec<Arc<str>>,
    /// By the publishing node, then by the receiving one.
    cells: Vec<[Cell; 2]>,
}

impl Matrix {
    /// Nothing is known of these nodes.
    pub fn new(names: Vec<Arc<str>>) -> Self {
        Self {
            cells: vec![Default::default(); names.len() * names.len()],
            names,
        }
    }

    /// The nodes.
    pub fn names(&self) -> &[Arc<str>] {
        &self.names
    }

    /// Notes a message: how long it took, or that it was lost.
    pub fn note(&mut self, from: usize, to: usize, qos: Qos, took: Option<Duration>) {
        let at = from * self.names.len() + to;
        self.cells[at][usize::from(qos.number())].note(took);
    }

    /// The messages of one kind.
    pub fn cell(&self, from: usize, to: usize, qos: Qos) -> &Cell {
        &self.cells[from * self.names.len() + to][usize::from(qos.number())]
    }

    /// The messages of both kinds.
    pub fn both(&self, from: usize, to: usize) -> Cell {
        let [zero, one] = Qos::ALL.map(|qos| self.cell(from, to, qos));
        let mut took = [&zero.took[..], &one.took[..]].concat();
        took.sort();
        Cell {
            sent: zero.sent + one.sent,
            took,
        }
    }

    /// What is known of the way from one node to another.
    pub fn way(&self, from: usize, to: usize) -> Way {
        let Cell { sent, took } = self.both(from, to);
        match (sent, took.len() as u32) {
            (0, _) => Way::Unmeasured,
            (_, 0) => Way::None,
            (sent, delivered) if delivered < sent => Way::Some,
            _ => Way::All,
        }
    }

    /// Whether a message from this node to itself was sent, and none arrived.
    pub fn is_mute(&self, node: usize) -> bool {
        self.way(node, node) == Way::None
    }

    /// The parts between which nothing passes in either direction, of the nodes that `counts` says count: each in the nodes' order.
    pub fn parts(&self, counts: impl Fn(usize) -> bool) -> Vec<Vec<usize>> {
        let mut left: VecDeque<usize> = (0..self.names.len()).filter(|node| counts(*node)).collect();
        let mut parts = Vec::new();
        while let Some(first) = left.pop_front() {
            let mut part = vec![first];
            let mut next = 0;
            while let Some(node) = part.get(next).copied() {
                next += 1;
                left.retain(|other| {
                    let ways = [self.way(node, *other), self.way(*other, node)];
                    // Ways that were not measured separate nothing.
                    let is_near = ways.iter().any(|way| way.is_open()) || ways == [Way::Unmeasured; 2];
                    if is_near {
                        part.push(*other);
                    }
                    !is_near
                });
            }
            part.sort_unstable();
            parts.push(part);
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(count: usize, open: impl Fn(usize, usize) -> bool) -> Matrix {
        let mut matrix = Matrix::new((0..count).map(|number| format!("n{number}").into()).collect());
        for from in 0..count {
            for to in 0..count {
                for qos in Qos::ALL {
                    let took = open(from, to).then_some(Duration::from_millis(1));
                    matrix.note(from, to, qos, took);
                }
            }
        }
        matrix
    }

    #[test]
    fn every_partition_of_five_nodes_is_found() {
        // Each number in base 5 names a part for each of the nodes.
        for number in 0..5_usize.pow(5) {
            let part_of = |node: usize| number / 5_usize.pow(node as u32) % 5;
            let matrix = of(5, |from, to| part_of(from) == part_of(to));
            let parts = matrix.parts(|_| true);
            assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), 5);
            for part in &parts {
                assert!(part.iter().all(|node| part_of(*node) == part_of(part[0])), "{parts:?}");
            }
            let mut of_parts: Vec<_> = parts.iter().map(|part| part_of(part[0])).collect();
            of_parts.sort_unstable();
            of_parts.dedup();
            assert_eq!(of_parts.len(), parts.len(), "one part was taken apart: {parts:?}");
        }
    }

    #[test]
    fn one_direction_or_a_third_node_keeps_a_part_together() {
        let one_way = of(2, |from, to| from <= to);
        assert_eq!(one_way.parts(|_| true), [vec![0, 1]]);
        let in_a_row = of(3, |from: usize, to| from.abs_diff(to) < 2);
        assert_eq!(in_a_row.parts(|_| true), [vec![0, 1, 2]]);
        assert_eq!(in_a_row.parts(|node| node != 1), [vec![0], vec![2]]);
    }

    #[test]
    fn times_are_ranked_whatever_their_order() {
        let mut matrix = Matrix::new(vec!["a".into()]);
        for milliseconds in [30, 10, 900, 20] {
            matrix.note(0, 0, Qos::Zero, Some(Duration::from_millis(milliseconds)));
        }
        matrix.note(0, 0, Qos::Zero, None);
        let cell = matrix.cell(0, 0, Qos::Zero);
        assert_eq!((cell.sent, cell.delivered()), (5, 4));
        assert_eq!(cell.percentile(50), Some(Duration::from_millis(20)));
        assert_eq!(cell.percentile(99), Some(Duration::from_millis(900)));
        assert_eq!(cell.late(Duration::from_millis(500)), 1);
        assert_eq!(matrix.way(0, 0), Way::Some);
        assert_eq!(Cell::default().percentile(50), None);
    }
}
