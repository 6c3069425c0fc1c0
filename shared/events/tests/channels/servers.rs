//! Several Redis servers that know each other.

use crate::redis::PATIENCE;
use oneiro_events::{Event, Subscription};
use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

pub(crate) struct Server {
    command: Command,
    child: Child,
    pub(crate) port: u16,
    _folder: tempfile::TempDir,
}

impl Server {
    /// Starts one with these arguments besides the usual ones, and waits until it answers.
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let usual = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"];
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string()]).args(usual).args(arguments).arg("--dir").arg(folder.path());
        Self::run(command, port, folder).await
    }

    /// Starts a sentinel that watches a master; two of them must agree that it is gone.
    pub(crate) async fn sentinel(master: u16) -> Self {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let file = folder.path().join("sentinel.conf");
        // Long enough that a busy machine is not taken for a dead master.
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor themaster 127.0.0.1 {master} 2\n\
             sentinel down-after-milliseconds themaster 3000\nsentinel failover-timeout themaster 10000\n",
            folder.path().display()
        );
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new("redis-server");
        command.arg(&file).arg("--sentinel");
        Self::run(command, port, folder).await
    }

    async fn run(mut command: Command, port: u16, folder: tempfile::TempDir) -> Self {
        let child = command.stdout(Stdio::null()).spawn().unwrap();
        let server = Self { command, child, port, _folder: folder };
        eventually("a server answers", || cli(port, &["PING"]).contains("PONG")).await;
        server
    }

    pub(crate) fn stop(&mut self) {
        // Either fails only where the process has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Stops it without ending it: its connections stay open, and nothing answers.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Starts it again after [`Server::stop`], with what it kept in its folder.
    pub(crate) fn start_again(&mut self) {
        self.child = self.command.spawn().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) fn cli(port: u16, args: &[&str]) -> String {
    let output = Command::new("redis-cli").args(["-p", &port.to_string()]).args(args).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Whether a master's replicas, of which there is one at least, have all that the master has.
pub(crate) fn replicated(info: &str) -> bool {
    let offset = info.lines().find_map(|line| line.strip_prefix("master_repl_offset:")).unwrap_or("?").trim();
    let mut replicas = info.lines().filter(|line| line.starts_with("slave") && line.contains("offset=")).peekable();
    replicas.peek().is_some()
        && replicas.all(|replica| replica.contains("state=online") && replica.contains(&format!("offset={offset},")))
}

/// The next event, which is not a gap.
pub(crate) async fn next(subscription: &mut Subscription) -> String {
    match tokio::time::timeout(PATIENCE, subscription.recv()).await.expect("an event in time") {
        Event::Publication(publication) => String::from_utf8(publication.payload.to_vec()).unwrap(),
        Event::Gap(gap) => panic!("{gap:?}"),
    }
}
