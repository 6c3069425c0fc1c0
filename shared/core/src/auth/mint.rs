//! Issuing tokens: for `oneiro token`, for development sign-in and for tests. Production tokens come from the user's own login.

use super::UserId;
use crate::{clock, config::Secret};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use std::time::Duration;

/// Signs an HS256 token for `user`, valid for `ttl` from now. `scopes` are the words of [`super::Scope`], separated by spaces where several.
///
/// # Errors
/// Only where the claims cannot be written as JSON, which no input of these types does.
pub fn mint(
    secret: &Secret,
    user: &UserId,
    username: Option<&str>,
    scopes: &str,
    ttl: Duration,
) -> Result<String, jsonwebtoken::errors::Error> {
    let now = clock::unix_millis() / 1000;
    let mut claims =
        serde_json::json!({ "user_id": user, "iat": now, "exp": now + ttl.as_secs(), "token_type": "access" });
    if let Some(username) = username {
        claims["username"] = username.into();
    }
    if !scopes.is_empty() {
        claims["scope"] = scopes.into();
    }
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret.expose().as_bytes()))
}
