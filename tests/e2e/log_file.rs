//! The log in a file: rotated by size, moved by something else, on a disk that is full, and changed by a reload.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::balancer::toml;
use crate::client::Client;
use crate::cluster::Cluster;
use crate::packets::Connect;
use crate::wait;

/// A program whose log is in a file, and which is asked where it listens.
struct Logged {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl Logged {
    /// With these keys of `[log]`, in which `DIR` is a folder of its own.
    fn start(cluster: &Cluster, keys: &str) -> Self {
        let folder = TempDir::new().expect("a folder");
        write(folder.path(), cluster, keys);
        let child = command(folder.path())
            .args(["run", "-c", "remora.toml"])
            .stdout(fs::File::create(folder.path().join("stdout")).expect("a file"))
            .stderr(fs::File::create(folder.path().join("stderr")).expect("a file"))
            .spawn()
            .expect("the program");
        let address = wait::until_some("a listener", || {
            let listeners = json(&ctl(folder.path(), &["listeners", "--json"]))?;
            listeners["listeners"][0]["address"].as_str()?.parse().ok()
        });
        Self { child, address, folder }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a process that runs");
    }

    /// Makes a line on the end of a connection.
    fn line(&self, id: &str) {
        Client::accepted(self.address, &Connect::new(id)).reset();
    }

    /// Makes such lines, one after another, until `condition` holds.
    #[track_caller]
    fn lines_until(&self, what: &str, condition: impl Fn() -> bool) {
        wait::until(what, || {
            self.line("again");
            condition()
        });
    }

    #[track_caller]
    fn until_in(&self, file: &str, text: &str) {
        wait::until(&format!("{text:?} in {file}"), || self.has(file, text));
    }

    fn has(&self, file: &str, text: &str) -> bool {
        fs::read_to_string(self.path(file)).is_ok_and(|log| log.contains(text))
    }

    /// Reloads with these keys, and returns what `ctl` says.
    fn reload(&self, cluster: &Cluster, keys: &str) -> Output {
        write(self.folder.path(), cluster, keys);
        ctl(self.folder.path(), &["reload"])
    }

    /// Ends it; its log is complete then.
    fn stop(&mut self) {
        self.signal(Signal::INT);
        assert!(self.child.wait().expect("a child").success());
    }

    fn metric(&self, name: &str) -> f64 {
        let socket = self.path("admin.sock");
        let page = crate::admin_client::ask_socket(&socket, "GET", "/metrics", "").body;
        let line = page.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse().ok()).expect("the metric")
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write(folder: &Path, cluster: &Cluster, keys: &str) {
    let keys = keys.replace("DIR", &folder.display().to_string());
    let tables = format!("[admin]\nsocket = \"{}/admin.sock\"\n[log]\n{keys}\n", folder.display());
    fs::write(folder.join("remora.toml"), toml(cluster, "", &tables)).expect("a file");
}

fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    command.current_dir(folder).stdin(Stdio::null());
    command
}

fn ctl(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = command(folder);
    command.args(["ctl", "--socket", "admin.sock"]).args(arguments);
    command.output().expect("the program")
}

fn json(output: &Output) -> Option<Value> {
    serde_json::from_slice(&output.stdout).ok()
}

#[test]
fn the_file_is_rotated_before_it_is_too_large_and_no_more_are_kept_than_were_asked_for() {
    const MAX: u64 = 8 * 1024;
    let cluster = Cluster::of(1);
    let keys = "file = \"DIR/logs.d.log\"\nfile_size_max = \"8KiB\"\nfile_count = 2\nformat = \"json\"";
    let mut program = Logged::start(&cluster, keys);
    let folder = program.folder.path().to_owned();
    let path = |suffix: &str| folder.join(format!("logs.d.log{suffix}"));
    assert_eq!(
        fs::metadata(path("")).expect("a file").mode() & 0o007,
        0,
        "not for everybody"
    );
    program.lines_until("two rotated files", || path(".2").exists());
    let oldest = fs::read(path(".2")).expect("a file");
    program.lines_until("another rotation", || {
        fs::read(path(".2")).is_ok_and(|now| now != oldest)
    });
    program.stop();
    assert!(!path(".3").exists());
    for suffix in ["", ".1", ".2"] {
        let text = fs::read_to_string(path(suffix)).expect("a file");
        assert!(text.len() as u64 <= MAX, "{suffix}: {} bytes", text.len());
        assert!(text.ends_with('\n'), "{suffix} ends within a line");
        for line in text.lines() {
            serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{suffix}: {error}: {line}"));
        }
    }
    assert_eq!(
        fs::read(program.path("stdout")).expect("a file"),
        b"",
        "nothing goes there as well"
    );
}

#[test]
fn a_file_that_logrotate_has_moved_is_opened_anew_at_its_signal_and_no_client_is_lost() {
    let cluster = Cluster::of(1);
    let program = Logged::start(&cluster, "file = \"remora.log\"");
    let mut staying = Client::accepted(program.address, &Connect::new("stays"));
    program.line("before");
    program.until_in("remora.log", "client_id=before ");
    fs::rename(program.path("remora.log"), program.path("remora.log.1")).expect("moved");
    program.signal(Signal::USR1);
    program.until_in("remora.log", "log file opened anew signal=\"SIGUSR1\"");
    program.line("behind");
    program.until_in("remora.log", "client_id=behind ");
    assert!(!program.has("remora.log.1", "client_id=behind "));
    // As it is without a signal.
    fs::rename(program.path("remora.log"), program.path("remora.log.1")).expect("moved");
    let reopened = ctl(program.folder.path(), &["reopen-logs"]);
    assert_eq!(reopened.status.code(), Some(0), "{reopened:?}");
    let said = String::from_utf8(reopened.stdout).expect("UTF-8");
    assert_eq!(
        said,
        format!("{} was opened anew\n", program.path("remora.log").display())
    );
    program.until_in("remora.log", "changed by the control API change=\"reopen the log\"");
    staying.send(&crate::packets::publish(b"still here"));
    let all = [Connect::new("stays").bytes(), crate::packets::publish(b"still here")].concat();
    cluster.holder(&all).1.expect(&all);
    // While it drains, too.
    program.signal(Signal::TERM);
    program.until_in("remora.log", "draining");
}

#[test]
fn a_file_or_a_folder_that_was_removed_is_made_again() {
    let cluster = Cluster::of(1);
    let program = Logged::start(&cluster, "file = \"DIR/logs/remora.log\"\nfile_size_max = \"0B\"");
    let path = program.path("logs/remora.log");
    fs::remove_file(&path).expect("removed");
    program.lines_until("the file", || path.exists());
    fs::remove_dir_all(program.path("logs")).expect("removed");
    program.lines_until("the folder", || path.exists());
    program.line("behind");
    program.until_in("logs/remora.log", "client_id=behind ");
}

#[test]
fn on_a_full_disk_clients_are_served_and_lines_are_counted_and_a_reload_takes_another_file() {
    let cluster = Cluster::of(1);
    let program = Logged::start(&cluster, "file = \"/dev/full\"");
    for number in 0..50 {
        program.line(&format!("served-{number}"));
    }
    wait::until("50 lines that are lost", || {
        program.metric("remora_log_lines_unwritten_total") >= 50.0
    });
    assert_eq!(program.metric("remora_log_lines_dropped_total"), 0.0);
    let said = fs::read_to_string(program.path("stderr")).expect("a file");
    assert_eq!(
        said.matches("remora: the log cannot be written to /dev/full: No space left on device")
            .count(),
        1,
        "{said}"
    );
    let reloaded = program.reload(&cluster, "file = \"a.log\"");
    assert_eq!(reloaded.status.code(), Some(0), "{reloaded:?}");
    program.line("in-a");
    program.until_in("a.log", "client_id=in-a ");
    program.until_in("a.log", "the log can be written again; lines before this one are lost");
    // One that cannot be opened changes nothing.
    fs::create_dir(program.path("folder")).expect("a folder");
    let refused = program.reload(&cluster, "file = \"folder\"\nlevel = \"error\"");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let why = format!("log.file: {} cannot be opened: ", program.path("folder").display());
    let said = String::from_utf8(refused.stderr).expect("UTF-8");
    assert!(said.contains(&why), "{said}");
    program.until_in("a.log", &why);
    program.line("still-in-a");
    program.until_in("a.log", "client_id=still-in-a ");
    // To standard output, and back.
    program.reload(&cluster, "output = \"stdout\"");
    program.line("in-stdout");
    program.until_in("stdout", "client_id=in-stdout ");
    let none = ctl(program.folder.path(), &["reopen-logs"]);
    assert_eq!(none.status.code(), Some(1), "{none:?}");
    assert!(
        String::from_utf8_lossy(&none.stderr).contains("not in a file (log.file)"),
        "{none:?}"
    );
    program.reload(&cluster, "file = \"b.log\"\nformat = \"json\"");
    program.line("in-b");
    program.until_in("b.log", "\"client_id\":\"in-b\"");
    assert!(!program.has("stdout", "in-b") && !program.has("a.log", "in-stdout"));
}

#[test]
fn a_file_that_cannot_be_opened_at_the_start_is_named_with_the_way_out() {
    let cluster = Cluster::of(1);
    let folder = TempDir::new().expect("a folder");
    write(folder.path(), &cluster, "file = \"a/b/remora.log\"");
    let output = command(folder.path()).args(["run", "-c", "remora.toml"]).output();
    let output = output.expect("the program");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(
        said.contains("a/b/remora.log cannot be opened: No such file or directory"),
        "{said}"
    );
    assert!(
        said.contains("make its folder, and let the user of this process write there"),
        "{said}"
    );
    // A pipe that nobody reads must not hold up the start.
    let pipe = folder.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
    assert!(made.success());
    fs::set_permissions(&pipe, fs::Permissions::from_mode(0o600)).expect("its owner");
    write(folder.path(), &cluster, "file = \"pipe\"");
    let output = command(folder.path()).args(["run", "-c", "remora.toml"]).output();
    assert_eq!(output.expect("the program").status.code(), Some(1));
}
