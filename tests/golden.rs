//! The ring gives every client id the node that it has always had: a table made by another implementation.

use remora::cluster::{Ring, SEED_DEFAULT};

const TABLE: &str = include_str!("golden/ring.txt");
const IDS: usize = 10_000;
const DIGITS_PER_LINE: usize = 100;

fn client_id(number: usize) -> Vec<u8> {
    let digits = format!("{number}-");
    let length = digits.len().max(number % 400);
    digits.bytes().cycle().take(length).collect()
}

/// One block of the file: weights, and a node for each id.
struct Block {
    what: String,
    weights: Vec<u16>,
    nodes: Vec<usize>,
}

fn blocks() -> Vec<Block> {
    let lines: Vec<&str> = TABLE.lines().collect();
    let blocks = lines.chunks(1 + IDS / DIGITS_PER_LINE);
    let block = |lines: &[&str]| {
        let (what, weights) = lines[0].split_once(' ').expect("a heading");
        let weights = weights.split(' ').map(|weight| weight.parse().expect("a weight"));
        let digits = lines[1..].concat();
        let nodes = digits.bytes().map(|digit| usize::from(digit - b'0'));
        Block {
            what: what.to_owned(),
            weights: weights.collect(),
            nodes: nodes.collect(),
        }
    };
    blocks.map(block).collect()
}

#[test]
fn every_id_has_the_node_that_it_has_always_had() {
    let mut seen = Vec::new();
    for Block { what, weights, nodes } in blocks() {
        let names: Vec<String> = (0..weights.len()).map(|node| format!("emqx{node}")).collect();
        let members = names.iter().map(String::as_str).zip(weights.iter().copied());
        // In another order than they are numbered in, which must not matter.
        let members: Vec<(&str, u16)> = members.rev().collect();
        let ring = Ring::build(SEED_DEFAULT, &members);
        let turn = if what == "home" { 0 } else { 1 };
        assert_eq!(nodes.len(), IDS, "{what} {weights:?}");
        for (number, node) in nodes.into_iter().enumerate() {
            let hash = ring.hash(&client_id(number));
            let place = ring.choices(hash).nth(turn).expect("two nodes at least");
            let chosen = weights.len() - 1 - place;
            assert_eq!(chosen, node, "{what} of id {number} among {weights:?}");
        }
        seen.push((what, weights.len()));
    }
    let expected = [3, 5, 10, 4].map(|nodes| [("home".to_owned(), nodes), ("next".to_owned(), nodes)]);
    assert_eq!(seen, expected.concat());
}
