//! `oneiro token`.

use crate::{cli::TokenArgs, show};
use anyhow::{Context, bail};
use oneiro_core::{
    auth::{self, UserId},
    config::Config,
};
use std::time::Duration;

pub(crate) fn print(args: &TokenArgs, config: &Config) -> anyhow::Result<()> {
    let secret = &config.auth.jwt_secret;
    if secret.is_empty() {
        bail!(
            "JWT_SECRET is not set; it must be the one that `api` and `ws` run with (scripts/up keeps its own in var/)"
        );
    }
    if auth::minting_algorithm(&config.auth).is_none() {
        bail!("auth.algorithms has none that signs with a secret: tokens come from whoever holds the private key");
    }
    let user = UserId::parse(&args.user).with_context(|| format!("`{}` is not a user id", args.user))?;
    if let Some(word) = args.scope.split_whitespace().find(|word| !["publish", "developer", "admin"].contains(word)) {
        bail!("`{word}` is not a scope; there are publish, developer and admin");
    }
    let token =
        auth::mint_for(&config.auth, &user, args.username.as_deref(), &args.scope, Duration::from_secs(args.ttl))?;
    show::text(&token);
    Ok(())
}
