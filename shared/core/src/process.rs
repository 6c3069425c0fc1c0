//! What every long-running binary does first and last: configuration, logs, runtime, stop signals, exit status.

use crate::config::{Config, ConfigErrors, EXIT_CONFIG};
use std::{process::ExitCode, time::Duration};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Runs a process from its loaded configuration to its exit status: 64 where the configuration is wrong, 0 after `check_only` (which prints
/// what is in force) and where `work` ended well, else 1.
///
/// `extra` is what the binary made of its own part of the settings. `linger` is how long threads that are still busy when `work` is over may
/// go on; then the process ends without them.
pub fn run<T, W>(
    loaded: Result<(Config, T), ConfigErrors>,
    check_only: bool,
    linger: Duration,
    work: impl FnOnce(Config, T) -> W,
) -> ExitCode
where
    W: Future<Output = anyhow::Result<()>>,
{
    let (config, extra) = match loaded {
        Ok(loaded) => loaded,
        Err(errors) => {
            complain(&errors.to_string());
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if check_only {
        say(&config.to_toml());
        return ExitCode::SUCCESS;
    }
    crate::telemetry::init_logs(&config.log);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("cannot start the runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(work(config, extra));
    runtime.shutdown_timeout(linger);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the process ended");
            ExitCode::FAILURE
        }
    }
}

/// Waits for SIGTERM or Ctrl-C; a second one ends the process at once.
///
/// Not the first SIGTERM behind Ctrl-C: a terminal interrupts every process of its group, and a process manager in it, such as Foreman,
/// then asks those that it started to stop, which is the same wish once more.
///
/// # Errors
/// Where the system does not let the process listen for signals.
pub async fn stop_signal() -> std::io::Result<()> {
    let mut signals = Signals::listen()?;
    let first = signals.next().await;
    tokio::spawn(async move {
        let second = signals.next().await;
        if (first, second) == (SignalKind::interrupt(), SignalKind::terminate()) {
            signals.next().await;
        }
        end_at_once();
    });
    Ok(())
}

/// Lets the next SIGTERM or Ctrl-C end the process at once: for one that stops already.
///
/// # Errors
/// As [`stop_signal`].
pub fn end_at_signal() -> std::io::Result<()> {
    let mut signals = Signals::listen()?;
    tokio::spawn(async move {
        signals.next().await;
        end_at_once();
    });
    Ok(())
}

fn end_at_once() -> ! {
    tracing::warn!("stopping at once");
    std::process::exit(1);
}

/// SIGTERM and Ctrl-C.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> SignalKind {
        tokio::select! {
            // A busy process may find both at once: then Ctrl-C was first.
            biased;
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
        }
    }
}

#[expect(clippy::print_stderr, reason = "before logging is configured")]
fn complain(text: &str) {
    eprintln!("{text}");
}

#[expect(clippy::print_stdout, reason = "the answer to --check-config")]
fn say(text: &str) {
    println!("{text}");
}
