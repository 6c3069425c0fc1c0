//! One program under test: started with a log, signalled, awaited, killed with the test.

use crate::{PATIENCE, within};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};
use tokio::process::{Child, Command};

/// What to start.
#[derive(Debug, Clone)]
pub struct Spawn {
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl Spawn {
    /// A program without arguments, in an environment that holds only what finds programs and temporary files: nothing that a
    /// developer has set may decide a test.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), args: Vec::new(), env: Vec::new() }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Sets an environment variable; the last value of a name counts.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets several environment variables.
    #[must_use]
    pub fn envs<'a>(mut self, pairs: impl IntoIterator<Item = &'a (String, String)>) -> Self {
        self.env.extend(pairs.into_iter().cloned());
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_clear().kill_on_drop(true).stdin(Stdio::null());
        for name in ["PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "CARGO_HOME", "RUSTUP_HOME"] {
            if let Some(value) = inherited(name) {
                command.env(name, value);
            }
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts it with both outputs in the file `log`.
    ///
    /// # Errors
    /// When the file or the process cannot be made.
    pub fn start(&self, log: PathBuf) -> Result<Process> {
        let file = File::options().create(true).append(true).open(&log).context("failed to open a log")?;
        let errors = file.try_clone().context("failed to open a log twice")?;
        let child = self
            .command()
            .stdout(file)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("failed to start {}", self.program.display()))?;
        Ok(Process { child, log })
    }

    /// Runs it to its end; returns its exit code, standard output and standard error.
    ///
    /// # Errors
    /// When it cannot be started, does not end, or is ended by a signal.
    pub async fn run(&self) -> Result<(i32, String, String)> {
        let program = self.program.display();
        let output = within(&format!("{program} ends"), self.command().output())
            .await?
            .with_context(|| format!("failed to run {program}"))?;
        let code = output.status.code().with_context(|| format!("{program} was ended by a signal"))?;
        Ok((
            code,
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        ))
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "handed on to the programs under test, which know no other way to find things"
)]
fn inherited(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name)
}

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Its process id.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn id(&self) -> Result<u32> {
        self.child.id().context("the process has ended already")
    }

    /// The file that holds its output.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its output so far.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn output(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(&self.log).context("failed to read a log")?).into_owned())
    }

    /// Whether it has ended by itself or by a signal.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Asks it to stop.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// What Ctrl-C sends.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn interrupt(&self) -> Result<()> {
        self.signal(Signal::INT)
    }

    /// Freezes it, as an overloaded or suspended machine would.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on after [`Process::freeze`].
    ///
    /// # Errors
    /// When it has ended already.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// `kill -9`, and waits until it is gone.
    ///
    /// # Errors
    /// When it does not go.
    pub async fn kill(&mut self) -> Result<()> {
        within("a killed process ends", self.child.kill()).await?.context("failed to kill a process")
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When it does not within the patience.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!("did not end within {} s; its log: {}", PATIENCE.as_secs(), self.log.display()),
        }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.id()?)?).context("process 0 is not ours")?;
        kill_process(pid, signal).context("failed to send a signal")
    }
}
