//! `oneiro`: what an operator does by hand. It acts on Redis directly, so it works while the API is down.

mod cli;
mod events;
mod jobs;
mod queues;
mod show;
mod token;

use clap::Parser;
use cli::{Cli, Command};
use oneiro_core::config::{Config, EXIT_CONFIG, Role};
use show::complain;
use std::process::ExitCode;

/// What clap exits with for wrong arguments.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let config = match Config::load(Role::Cli, cli.config.as_deref()) {
        Ok(config) => config,
        Err(errors) => {
            complain(&errors.to_string());
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if cli.check_config {
        show::text(&config.to_toml());
        return ExitCode::SUCCESS;
    }
    let Some(command) = cli.command else {
        complain("no command was given; `oneiro --help` lists them");
        return ExitCode::from(EXIT_USAGE);
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("cannot start the runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(command, &config, cli.json)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("oneiro: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command, config: &Config, json: bool) -> anyhow::Result<()> {
    match command {
        Command::Jobs(command) => jobs::run(command, config, json).await,
        Command::Queues(command) => queues::queues(command, config, json).await,
        Command::Workers(command) => queues::workers(command, config, json).await,
        Command::Token(args) => token::print(&args, config),
        Command::Publish(args) => events::publish(args, config, json).await,
        Command::Events(command) => events::run(command, config).await,
        Command::Sockets(command) => events::sockets(command, config, json).await,
    }
}
