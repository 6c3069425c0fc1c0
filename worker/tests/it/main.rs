//! The worker's parts with real processes around them; whole workers run in the end-to-end tests.

mod converter;
mod isolation;
