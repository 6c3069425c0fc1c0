//! The vocabulary that the API and the workers share: configuration, tokens, storage, dream records and job arguments.
//!
//! A dream is a text with photographs. The API writes its record and pushes jobs; workers settle its images; each change of its
//! state is one atomic step that also publishes the event (see [`dreams::DreamStore`]).

pub mod auth;
pub mod clock;
pub mod config;
pub mod dreams;
pub mod jobs;
pub mod process;
pub mod publish;
pub mod redis;
pub mod sockets;
pub mod storage;
pub mod telemetry;
