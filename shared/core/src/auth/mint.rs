//! Issuing tokens: for `oneiro token`, for development sign-in and for tests. Production tokens come from the user's own login.

use super::UserId;
use crate::{
    clock,
    config::{AuthConfig, Secret},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, errors::Error};
use std::time::Duration;

/// The first of `auth.algorithms` that signs with `auth.jwt_secret`; nothing where all want a private key, which Oneiro has not.
pub fn minting_algorithm(config: &AuthConfig) -> Option<Algorithm> {
    let mut named = config.algorithms.iter().filter_map(|name| name.parse().ok());
    named.find(|algorithm| matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512))
}

/// Signs a token that verifiers with this configuration take: with its issuer and audience, where it asks for one. Otherwise as [`mint`].
///
/// # Errors
/// As [`mint`]; and where no algorithm signs with a secret (see [`minting_algorithm`]).
pub fn mint_for(
    config: &AuthConfig,
    user: &UserId,
    username: Option<&str>,
    scopes: &str,
    ttl: Duration,
) -> Result<String, Error> {
    let algorithm = minting_algorithm(config).ok_or(jsonwebtoken::errors::ErrorKind::InvalidAlgorithm)?;
    let mut claims = claims(user, username, scopes, ttl);
    for (name, value) in [("iss", &config.issuer), ("aud", &config.audience)] {
        if !value.is_empty() {
            claims[name] = value.as_str().into();
        }
    }
    sign(algorithm, &claims, &config.jwt_secret)
}

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
) -> Result<String, Error> {
    sign(Algorithm::HS256, &claims(user, username, scopes, ttl), secret)
}

fn claims(user: &UserId, username: Option<&str>, scopes: &str, ttl: Duration) -> serde_json::Value {
    let now = clock::unix_millis() / 1000;
    let mut claims =
        serde_json::json!({ "user_id": user, "iat": now, "exp": now + ttl.as_secs(), "token_type": "access" });
    if let Some(username) = username {
        claims["username"] = username.into();
    }
    if !scopes.is_empty() {
        claims["scope"] = scopes.into();
    }
    claims
}

fn sign(algorithm: Algorithm, claims: &serde_json::Value, secret: &Secret) -> Result<String, Error> {
    jsonwebtoken::encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.expose().as_bytes()))
}
