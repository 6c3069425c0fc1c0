//! Tokens: who is asking, and what they may do. Every route and socket verifies here and nowhere else.

mod claims;
mod mint;
mod verifier;

pub use claims::{Claims, Scope, UserId};
pub use mint::{mint, mint_for, minting_algorithm};
pub use verifier::{AuthError, AuthSetupError, Verifier};
