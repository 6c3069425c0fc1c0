//! Checking a token's signature and claims (RFC 7519) against the configured keys and an explicit list of algorithms.

use super::{Claims, UserId};
use crate::config::AuthConfig;
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, Validation,
    errors::{Error as JwtError, ErrorKind},
    jwk::{Jwk, JwkSet, PublicKeyUse},
};
use serde::Deserialize;
use std::{str::FromStr, sync::Arc};

/// A token longer than this is refused unread: real ones have a few hundred bytes.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Why a token is not believed. None of the variants repeats the token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// No token was given.
    #[error("no token was given")]
    Missing,
    /// It is not a JWT, or its claims have the wrong form.
    #[error("the token is malformed")]
    Malformed,
    /// It was good once.
    #[error("the token has expired")]
    Expired,
    /// Signature, algorithm, issuer, audience or kind is not accepted.
    #[error("the token is not accepted: {0}")]
    Rejected(&'static str),
}

/// Why the configured keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthSetupError {
    /// A name in `auth.algorithms` is unknown.
    #[error("auth.algorithms: `{0}` is not a signature algorithm such as HS256, RS256, ES256 or EdDSA")]
    UnknownAlgorithm(String),
    /// `auth.algorithms` is empty.
    #[error("auth.algorithms: names no algorithm")]
    NoAlgorithm,
    /// An algorithm has no key to check with.
    #[error("auth.algorithms: {0} needs auth.public_key_file or auth.jwks_file")]
    NoKey(String),
    /// A key file cannot be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A key file does not hold what its name promises.
    #[error("{path} holds no usable key: {reason}")]
    BadKey {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
}

struct Key {
    kid: Option<String>,
    key: DecodingKey,
    validation: Validation,
}

/// Verifies tokens. Cheap to clone, holds no connection.
#[derive(Clone)]
pub struct Verifier {
    keys: Arc<[Key]>,
}

/// The claims as they stand in the token: simplejwt's and our own.
#[derive(Deserialize)]
struct RawClaims {
    user_id: Option<UserId>,
    sub: Option<UserId>,
    username: Option<String>,
    exp: i64,
    iat: Option<f64>,
    scope: Option<String>,
    #[serde(default)]
    is_staff: bool,
    token_type: Option<String>,
}

impl Verifier {
    /// Reads the keys that `config` names.
    ///
    /// # Errors
    /// [`AuthSetupError`] where an algorithm is unknown or has no usable key.
    pub fn new(config: &AuthConfig) -> Result<Self, AuthSetupError> {
        let mut algorithms = Vec::new();
        for name in &config.algorithms {
            algorithms.push(Algorithm::from_str(name).map_err(|_| AuthSetupError::UnknownAlgorithm(name.clone()))?);
        }
        if algorithms.is_empty() {
            return Err(AuthSetupError::NoAlgorithm);
        }
        let mut keys = Vec::new();
        let families = [AlgorithmFamily::Hmac, AlgorithmFamily::Rsa, AlgorithmFamily::Ec, AlgorithmFamily::Ed];
        let jwks = read_jwks(&config.jwks_file)?;
        for family in families {
            let allowed: Vec<Algorithm> =
                algorithms.iter().copied().filter(|a| family.algorithms().contains(a)).collect();
            if allowed.is_empty() {
                continue;
            }
            // One key per family: `decode` refuses a key whose family differs from an allowed algorithm's.
            let before = keys.len();
            let mut add = |kid: Option<String>, key: DecodingKey| {
                keys.push(Key { kid, key, validation: validation(config, &allowed) });
            };
            if family == AlgorithmFamily::Hmac && !config.jwt_secret.is_empty() {
                add(None, DecodingKey::from_secret(config.jwt_secret.expose().as_bytes()));
            }
            if family != AlgorithmFamily::Hmac
                && !config.public_key_file.is_empty()
                && let Some(key) = read_pem(&config.public_key_file, family)?
            {
                add(None, key);
            }
            // A login may publish keys that others encrypt with next to those that it signs with.
            let signs = |jwk: &&Jwk| jwk.common.public_key_use != Some(PublicKeyUse::Encryption);
            for jwk in jwks.iter().flat_map(|set| &set.keys).filter(signs) {
                if let Ok(key) = DecodingKey::from_jwk(jwk)
                    && key.family() == family
                {
                    add(jwk.common.key_id.clone(), key);
                }
            }
            if keys.len() == before {
                return Err(AuthSetupError::NoKey(format!("{:?}", allowed[0])));
            }
        }
        Ok(Self { keys: keys.into() })
    }

    /// Verifies a token as it stands in a header, a query, a message or a cookie: with or without `Bearer `, blanks around it ignored.
    ///
    /// # Errors
    /// [`AuthError`] says why it is not believed.
    pub fn verify(&self, raw: &str) -> Result<Claims, AuthError> {
        let token = strip_bearer(raw);
        if token.is_empty() {
            return Err(AuthError::Missing);
        }
        if token.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::Malformed);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| AuthError::Malformed)?;
        let mut outcome = AuthError::Rejected("no configured key fits its algorithm");
        for key in self.keys.iter() {
            if !key.validation.algorithms.contains(&header.alg) {
                continue;
            }
            if let (Some(wanted), Some(kid)) = (&header.kid, &key.kid)
                && wanted != kid
            {
                continue;
            }
            match jsonwebtoken::decode::<RawClaims>(token, &key.key, &key.validation) {
                Ok(data) => return claims(data.claims),
                // Another key cannot say more of a token that this one has signed.
                Err(error) if *error.kind() == ErrorKind::ExpiredSignature => return Err(AuthError::Expired),
                Err(error) => outcome = explain(&error),
            }
        }
        Err(outcome)
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("keys", &self.keys.len()).finish()
    }
}

/// Strips an optional, case-insensitive `Bearer ` and surrounding blanks.
fn strip_bearer(raw: &str) -> &str {
    let raw = raw.trim();
    match raw.get(..7) {
        Some(word) if word.eq_ignore_ascii_case("bearer ") => raw[7..].trim(),
        _ => raw,
    }
}

fn validation(config: &AuthConfig, allowed: &[Algorithm]) -> Validation {
    let mut validation = Validation::new(allowed[0]);
    validation.algorithms = allowed.to_vec();
    validation.leeway = config.leeway_seconds;
    validation.validate_nbf = true;
    let mut required = vec!["exp"];
    if !config.issuer.is_empty() {
        validation.set_issuer(&[&config.issuer]);
        required.push("iss");
    }
    if config.audience.is_empty() {
        // Without a configured audience, one in the token is somebody else's business, as in simplejwt.
        validation.validate_aud = false;
    } else {
        validation.set_audience(&[&config.audience]);
        required.push("aud");
    }
    validation.set_required_spec_claims(&required);
    validation
}

fn claims(raw: RawClaims) -> Result<Claims, AuthError> {
    // simplejwt's refresh tokens are signed with the same key, but open nothing.
    if raw.token_type.as_deref().is_some_and(|kind| kind != "access") {
        return Err(AuthError::Rejected("it is not an access token"));
    }
    let user_id = raw.user_id.or(raw.sub).ok_or(AuthError::Rejected("it names no user"))?;
    let username =
        raw.username.map(|name| name.trim().chars().filter(|c| !c.is_control()).take(150).collect::<String>());
    #[expect(clippy::cast_possible_truncation, reason = "a time in seconds; simplejwt may write a fraction")]
    let issued_at = raw.iat.map(|iat| iat as i64);
    Ok(Claims {
        user_id,
        username: username.filter(|name| !name.is_empty()),
        expires_at: raw.exp,
        issued_at,
        scopes: raw.scope.unwrap_or_default().split_whitespace().map(str::to_owned).collect(),
        is_staff: raw.is_staff,
    })
}

fn explain(error: &JwtError) -> AuthError {
    match error.kind() {
        ErrorKind::ExpiredSignature => AuthError::Expired,
        ErrorKind::InvalidSignature => AuthError::Rejected("its signature is wrong"),
        ErrorKind::InvalidIssuer => AuthError::Rejected("its issuer is not the configured one"),
        ErrorKind::InvalidAudience => AuthError::Rejected("its audience is not the configured one"),
        ErrorKind::ImmatureSignature => AuthError::Rejected("it is not valid yet"),
        ErrorKind::MissingRequiredClaim(_) => AuthError::Rejected("a required claim is missing"),
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidKeyFormat => {
            AuthError::Rejected("its algorithm is not accepted")
        }
        _ => AuthError::Malformed,
    }
}

fn read_jwks(path: &str) -> Result<Option<JwkSet>, AuthSetupError> {
    if path.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&read(path)?)
        .map(Some)
        .map_err(|error| AuthSetupError::BadKey { path: path.to_owned(), reason: error.to_string() })
}

/// A PEM file holds one key of one family: `None` where it is of another than asked for.
fn read_pem(path: &str, family: AlgorithmFamily) -> Result<Option<DecodingKey>, AuthSetupError> {
    let pem = read(path)?;
    let rsa = DecodingKey::from_rsa_pem(&pem);
    let ec = DecodingKey::from_ec_pem(&pem);
    let ed = DecodingKey::from_ed_pem(&pem);
    if let (Err(error), Err(_), Err(_)) = (&rsa, &ec, &ed) {
        return Err(AuthSetupError::BadKey { path: path.to_owned(), reason: error.to_string() });
    }
    Ok(match family {
        AlgorithmFamily::Rsa => rsa.ok(),
        AlgorithmFamily::Ec => ec.ok(),
        AlgorithmFamily::Ed => ed.ok(),
        _ => None,
    })
}

fn read(path: &str) -> Result<Vec<u8>, AuthSetupError> {
    std::fs::read(path).map_err(|source| AuthSetupError::Unreadable { path: path.to_owned(), source })
}

#[cfg(test)]
mod asymmetric_tests;
#[cfg(test)]
mod tests;
