//! Nodes that another program lists in a file, which it replaces as such programs do, well and badly.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::admin_client::Metrics;
use crate::balancer::{ADMIN, Balancer, Program, block_on};
use crate::client::Client;
use crate::control;
use crate::node::FakeNode;
use crate::packets::Connect;
use crate::wait;

/// A directory in which nodes are listed.
pub(crate) struct Listed {
    folder: TempDir,
}

impl Listed {
    pub(crate) fn new() -> Self {
        Self {
            folder: TempDir::new().expect("a directory"),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("nodes.toml")
    }

    /// Replaces the file as a whole.
    pub(crate) fn put(&self, text: &str) {
        let new = self.folder.path().join("new");
        fs::write(&new, text).expect("written");
        fs::rename(&new, self.path()).expect("renamed");
    }

    pub(crate) fn tables(&self, more: &str) -> String {
        let path = self.path();
        format!(
            "workers = 1\n[[listeners]]\naddress = \"127.0.0.1:0\"\n{ADMIN}\
             [discovery]\nsource = \"file\"\nfile = {path:?}\ninterval = \"20ms\"\n{more}"
        )
    }

    fn balancer(&self, more: &str) -> Balancer {
        Balancer::of(&self.tables(more))
    }
}

pub(crate) fn nodes(count: usize) -> Vec<FakeNode> {
    (0..count).map(|number| FakeNode::start(format!("n{number}"))).collect()
}

fn table(node: &FakeNode) -> String {
    format!("[[nodes]]\nname = \"{}\"\naddress = \"{}\"\n", node.name, node.address)
}

pub(crate) fn tables(nodes: &[FakeNode]) -> String {
    nodes.iter().map(table).collect()
}

fn names(balancer: &Balancer) -> Vec<String> {
    let nodes = balancer.running.nodes();
    nodes.iter().map(|node| node.name.to_string()).collect()
}

#[track_caller]
fn until_listed(balancer: &Balancer, nodes: &[FakeNode]) {
    let expected: Vec<&str> = nodes.iter().map(|node| &*node.name).collect();
    wait::until("the listed nodes are in the cluster", || names(balancer) == expected);
}

/// How many answers of the file had this result.
fn answers(balancer: &Balancer, result: &str) -> f64 {
    let admin = balancer.running.admin().expect("an admin listener");
    Metrics::of(admin).value(&format!("remora_discovery_answers_total{{result=\"{result}\"}}"))
}

/// How the line begins that says that the file cannot be used.
const FAILED: &str = "nodes cannot be looked for";

/// What these lines give as the reason.
fn whys(program: &Program) -> Vec<String> {
    let failed = program.lines(|line| {
        line["message"]
            .as_str()
            .is_some_and(|message| message.starts_with(FAILED))
    });
    failed
        .iter()
        .map(|line| line["why"].as_str().expect("a reason").to_owned())
        .collect()
}

#[test]
fn the_nodes_of_a_file_serve_and_one_that_is_listed_anew_does_too() {
    let (listed, nodes) = (Listed::new(), nodes(3));
    listed.put(&tables(&nodes[..2]));
    let balancer = listed.balancer("");
    until_listed(&balancer, &nodes[..2]);
    for number in 0..10 {
        let connect = Connect::new(format!("id-{number}"));
        let _client = Client::accepted(balancer.address, &connect);
        let asked: usize = nodes[..2].iter().map(|node| node.asked(&connect.bytes())).sum();
        assert_eq!(asked, 1, "{number}");
    }
    // The weight is the file's, and a wish is a difference from that.
    listed.put(&tables(&nodes).replace("n2\"\n", "n2\"\nweight = 900\n"));
    until_listed(&balancer, &nodes);
    let weights = || {
        let nodes = balancer.running.nodes();
        let nodes = nodes.iter().map(|node| (node.weight, node.configured_weight));
        nodes.collect::<Vec<_>>()
    };
    assert_eq!(weights(), [(100, Some(100)), (100, Some(100)), (900, Some(900))]);
    block_on(balancer.running.set_weight("n2", Some(7))).expect("a weight");
    assert_eq!(weights()[2], (7, Some(900)));
    let wishes = balancer.running.wishes();
    assert_eq!((wishes.len(), wishes[0].weight), (1, Some(7)));
}

#[test]
fn a_node_whose_address_changes_in_the_file_keeps_its_clients() {
    let (listed, mut nodes) = (Listed::new(), nodes(2));
    listed.put(&tables(&nodes));
    let balancer = listed.balancer("");
    until_listed(&balancer, &nodes);
    let connect = Connect::new("stays");
    let _client = Client::accepted(balancer.address, &connect);
    let home = nodes.iter().position(|node| node.asked(&connect.bytes()) == 1);
    let home = home.expect("one node has it");
    // The same name elsewhere.
    let moved = FakeNode::start(&nodes[home].name);
    let before = std::mem::replace(&mut nodes[home], moved);
    listed.put(&tables(&nodes));
    wait::until("its next connection goes to the new address", || {
        let connect = Connect::new("stays");
        let _client = Client::accepted(balancer.address, &connect);
        nodes[home].asked(&connect.bytes()) > 0
    });
    drop(before);
}

/// As Kubernetes replaces what a ConfigMap has: a link to a link, of which the inner one is replaced.
#[test]
fn a_link_that_is_swapped_is_followed() {
    let (listed, nodes) = (Listed::new(), nodes(3));
    let folder = listed.folder.path();
    let version = |name: &str, nodes: &[FakeNode]| {
        fs::create_dir(folder.join(name)).expect("a directory");
        fs::write(folder.join(name).join("nodes.toml"), tables(nodes)).expect("written");
        symlink(name, folder.join("..data_tmp")).expect("a link");
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("renamed");
    };
    version("..1", &nodes[..2]);
    symlink(Path::new("..data/nodes.toml"), listed.path()).expect("a link");
    let balancer = listed.balancer("");
    until_listed(&balancer, &nodes[..2]);
    version("..2", &nodes);
    fs::remove_dir_all(folder.join("..1")).expect("removed");
    until_listed(&balancer, &nodes);
}

#[test]
fn a_file_that_is_missing_empty_cut_off_or_wrong_changes_nothing_and_is_read_again_once_it_is_right() {
    let (listed, nodes) = (Listed::new(), nodes(3));
    let whole = tables(&nodes[..2]);
    listed.put(&whole);
    let balancer = listed.balancer("");
    until_listed(&balancer, &nodes[..2]);
    let many: String = (0..10_000)
        .map(|number| format!("[[nodes]]\nname = 'm{number}'\naddress = '127.0.0.1:{}'\n", number + 1))
        .collect();
    let twice = format!("{whole}{}", table(&nodes[0]));
    let unknown = format!("{whole}weigth = 7\n");
    let large = format!("{whole}#{}\n", "x".repeat(1 << 20));
    for text in [
        "",
        "\n",
        &whole[..whole.len() - 3],
        "[[nodes]]\nname = 'x'\n",
        "{\"nodes\": []}\n",
        &many,
        &twice,
        &unknown,
        &large,
    ] {
        let before = answers(&balancer, "failed");
        listed.put(text);
        let shown = &text[..text.len().min(60)];
        wait::until("it is refused", || answers(&balancer, "failed") > before);
        assert_eq!(names(&balancer), ["n0", "n1"], "{shown:?}");
        let _client = Client::accepted(balancer.address, &Connect::new("goes on"));
    }
    for replace in [
        (|path: &Path| fs::remove_file(path).expect("removed")) as fn(&Path),
        |path: &Path| fs::create_dir(path).expect("a directory"),
    ] {
        replace(&listed.path());
        let before = answers(&balancer, "failed");
        wait::until("it is refused", || answers(&balancer, "failed") > before);
        assert_eq!(names(&balancer), ["n0", "n1"]);
    }
    fs::remove_dir(listed.path()).expect("removed");
    listed.put(&tables(&nodes));
    until_listed(&balancer, &nodes);
}

/// A writer that does not rename: what it has written so far is never used.
#[test]
fn a_file_that_is_being_written_is_used_once_it_is_whole() {
    let (listed, nodes) = (Listed::new(), nodes(4));
    listed.put(&tables(&nodes[..1]));
    let balancer = listed.balancer("grace = \"0s\"\n");
    until_listed(&balancer, &nodes[..1]);
    let text = tables(&nodes);
    // All but the last line: no line of it is cut off, and the last node has no address.
    let cut = text.trim_end().rfind('\n').expect("lines") + 1;
    fs::write(listed.path(), &text[..cut]).expect("written");
    let before = answers(&balancer, "failed");
    wait::until("it is refused", || answers(&balancer, "failed") > before);
    assert_eq!(names(&balancer), ["n0"]);
    fs::write(listed.path(), &text).expect("written");
    until_listed(&balancer, &nodes);
}

#[test]
fn a_list_without_most_of_the_nodes_is_held_back_for_the_grace_time() {
    let (listed, nodes) = (Listed::new(), nodes(3));
    listed.put(&tables(&nodes));
    let balancer = listed.balancer("grace = \"500h\"\n");
    until_listed(&balancer, &nodes);
    listed.put(&table(&nodes[2]));
    wait::until("it is held back", || answers(&balancer, "held_back") > 0.0);
    assert_eq!(names(&balancer), ["n0", "n1", "n2"]);
    // One that is missing stays as well, and what is new is used.
    let late = FakeNode::start("n3");
    listed.put(&format!("{}{}", tables(&nodes[..2]), table(&late)));
    wait::until("the new one is added", || names(&balancer) == ["n0", "n1", "n2", "n3"]);
    drop(balancer);
    listed.put(&tables(&nodes));
    let balancer = listed.balancer("grace = \"0s\"\n");
    until_listed(&balancer, &nodes);
    listed.put(&table(&nodes[0]));
    until_listed(&balancer, &nodes[..1]);
}

#[test]
fn a_process_that_starts_before_its_file_is_there_says_so_and_serves_once_it_is() {
    let (listed, nodes) = (Listed::new(), nodes(1));
    let program = Program::of(&listed.tables(""));
    program.until_said(FAILED);
    assert_eq!(
        whys(&program),
        [format!(
            "{}: No such file or directory (os error 2)",
            listed.path().display()
        )]
    );
    listed.put(&tables(&nodes));
    program.until_said("nodes can be looked for again");
    wait::until("they are in the cluster", || {
        Metrics::of(program.admin()).text.contains("node=\"n0\"")
    });
    let connect = Connect::new("late");
    let _client = Client::accepted(program.address, &connect);
    assert_eq!(nodes[0].asked(&connect.bytes()), 1);
}

#[test]
fn what_is_wrong_in_the_file_is_said_with_its_place_and_once() {
    let (listed, nodes) = (Listed::new(), nodes(1));
    listed.put(&tables(&nodes));
    let program = Program::of(&listed.tables(""));
    listed.put(&format!("{}wieght = 7\n", tables(&nodes)));
    program.until_said(FAILED);
    let failed = || Metrics::of(program.admin()).value("remora_discovery_answers_total{result=\"failed\"}");
    let before = failed();
    wait::until("it is read a few times more", || failed() >= before + 3.0);
    assert_eq!(
        whys(&program),
        [format!(
            "{}:4:1: nodes[0].wieght: unknown key (did you mean `weight`?)",
            listed.path().display()
        )]
    );
}

#[test]
fn a_wish_of_before_a_restart_waits_for_its_node_to_be_found() {
    let (listed, nodes) = (Listed::new(), nodes(2));
    let file = listed.folder.path().join("state.json");
    let drained = "{\"wishes\":[{\"node\":\"n1\",\"weight\":null,\"is_draining\":true}]}";
    fs::write(&file, drained).expect("written");
    let mut shell = Command::new("sh");
    let kept = "exec \"$0\" \"$@\" --state \"$STATE\"";
    shell
        .args(["-c", kept, env!("CARGO_BIN_EXE_remora")])
        .env("STATE", &file);
    listed.put(&tables(&nodes[..1]));
    let program = Program::by(shell, &listed.tables(""));
    program.until_said("wishes for the node wait until it is found");
    let read = || -> Value { serde_json::from_slice(&fs::read(&file).expect("a file")).expect("JSON") };
    // What is kept of it until then.
    control::ctl(&program, &["weight", "n0", "7"]);
    wait::until("the wish for the other node is written", || {
        read()["wishes"].as_array().is_some_and(|wishes| wishes.len() == 2)
    });
    assert_eq!(read()["wishes"][1]["node"], "n1");
    listed.put(&tables(&nodes));
    program.until_said("wishes for the node restored");
    let series = "remora_node_state{node=\"n1\",endpoint=\"mqtt\",state=\"draining\"}";
    wait::until("it is draining", || Metrics::of(program.admin()).value(series) == 1.0);
}
