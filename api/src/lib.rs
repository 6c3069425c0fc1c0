//! Oneiro's HTTP and WebSocket servers: routes that store uploads and push jobs, and the socket tier that tells what became of them.

mod access_log;
mod cross_origin;
mod error;
mod first;
mod listener;
mod rest;
mod routes;
mod serve;
mod server;
pub mod socket;
mod state;
mod upload;

pub use error::ApiError;
pub use serve::{Args, run, serve_sockets};
pub use state::AppState;
