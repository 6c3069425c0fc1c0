use super::*;
use crate::{
    auth::{Scope, mint, mint_for},
    clock,
    config::{Config, Role, Secret},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use std::{collections::BTreeMap, time::Duration};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn verifier_with(pairs: &[(&str, &str)]) -> Verifier {
    let mut env = BTreeMap::from([("JWT_SECRET".to_owned(), SECRET.to_owned())]);
    env.extend(pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())));
    Verifier::new(&Config::from_layers(Role::Api, None, &env).unwrap().auth).unwrap()
}

fn sign(claims: &serde_json::Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &key).unwrap()
}

fn later() -> u64 {
    clock::unix_millis() / 1000 + 600
}

#[test]
fn a_minted_token_verifies_with_and_without_bearer() {
    let user = UserId::from(7);
    let token = mint(&Secret::new(SECRET), &user, Some("ada"), "publish developer", Duration::from_secs(60)).unwrap();
    let verifier = verifier_with(&[]);
    for raw in [token.clone(), format!("Bearer {token}"), format!("  bearer   {token} \n")] {
        let claims = verifier.verify(&raw).unwrap();
        assert_eq!((claims.user_id.clone(), claims.display_name()), (user.clone(), "ada".to_owned()));
        assert!(
            claims.has_scope(Scope::Publish) && claims.has_scope(Scope::Developer) && !claims.has_scope(Scope::Admin)
        );
    }
}

#[test]
fn a_token_minted_for_a_configuration_verifies_under_it() {
    let env = [("JWT_SECRET", SECRET), ("ONEIRO_AUTH_ISSUER", "us"), ("ONEIRO_AUTH_AUDIENCE", "them")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let mut config = Config::from_layers(Role::Api, None, &env).unwrap().auth;
    config.algorithms = vec!["RS256".to_owned(), "HS512".to_owned()];
    config.jwt_secret = Secret::new("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef");
    let (user, ttl) = (UserId::from(7), Duration::from_secs(60));
    // RS256 wants a key, which a verifier is not made without.
    let verifier = Verifier::new(&AuthConfig { algorithms: vec!["HS512".to_owned()], ..config.clone() }).unwrap();
    assert_eq!(verifier.verify(&mint_for(&config, &user, None, "", ttl).unwrap()).unwrap().user_id, user);
    assert!(verifier.verify(&mint(&config.jwt_secret, &user, None, "", ttl).unwrap()).is_err());
    config.algorithms.pop();
    assert!(mint_for(&config, &user, None, "", ttl).is_err());
}

#[test]
fn simplejwt_access_tokens_pass_and_refresh_tokens_do_not() {
    let verifier = verifier_with(&[]);
    let token = |kind: &str| {
        sign(
            &serde_json::json!({"token_type": kind, "exp": later(), "iat": 1_700_000_000.5, "jti": "x", "user_id": "12"}),
        )
    };
    assert_eq!(verifier.verify(&token("access")).unwrap().user_id, UserId::from(12));
    assert!(matches!(verifier.verify(&token("refresh")), Err(AuthError::Rejected(_))));
}

#[test]
fn staff_may_develop_and_administer_but_not_publish() {
    let claims =
        verifier_with(&[]).verify(&sign(&serde_json::json!({"sub": "s", "exp": later(), "is_staff": true}))).unwrap();
    assert!(claims.has_scope(Scope::Admin) && claims.has_scope(Scope::Developer) && !claims.has_scope(Scope::Publish));
}

#[test]
fn hostile_tokens_are_refused() {
    let verifier = verifier_with(&[]);
    let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
    let good = sign(&serde_json::json!({"user_id": 1, "exp": later()}));
    let (head_and_body, _) = good.rsplit_once('.').unwrap();
    let none = format!(
        "{}.{}.",
        part(r#"{"alg":"none","typ":"JWT"}"#),
        part(&format!(r#"{{"user_id":1,"exp":{}}}"#, later()))
    );
    let rs = format!("{}.{}.AAAA", part(r#"{"alg":"RS256"}"#), part(r#"{"user_id":1,"exp":99999999999}"#));
    for bad in
        ["", "x", "a.b.c", "Bearer ", &none, &rs, &format!("{head_and_body}.AAAA"), &"x".repeat(100_000), "é.é.é"]
    {
        assert!(verifier.verify(bad).is_err(), "{bad:.40}");
    }
    for claims in [
        serde_json::json!({"user_id": 1}),
        serde_json::json!({"exp": later()}),
        serde_json::json!({"user_id": -1, "exp": later()}),
        serde_json::json!({"user_id": {"a": 1}, "exp": later()}),
        serde_json::json!({"user_id": 1, "exp": later(), "nbf": later()}),
    ] {
        assert!(verifier.verify(&sign(&claims)).is_err(), "{claims}");
    }
    assert!(matches!(
        verifier.verify(&sign(&serde_json::json!({"user_id": 1, "exp": 1_000_000_000}))),
        Err(AuthError::Expired)
    ));
}

#[test]
fn issuer_and_audience_bind_where_they_are_configured() {
    let verifier = verifier_with(&[("ONEIRO_AUTH_ISSUER", "us"), ("ONEIRO_AUTH_AUDIENCE", "app")]);
    assert!(
        verifier
            .verify(&sign(&serde_json::json!({"user_id": 1, "exp": later(), "iss": "us", "aud": ["app", "b"]})))
            .is_ok()
    );
    for claims in [
        serde_json::json!({"user_id": 1, "exp": later()}),
        serde_json::json!({"user_id": 1, "exp": later(), "iss": "them", "aud": "app"}),
        serde_json::json!({"user_id": 1, "exp": later(), "iss": "us", "aud": "other"}),
    ] {
        assert!(verifier.verify(&sign(&claims)).is_err(), "{claims}");
    }
}

#[test]
fn algorithms_without_a_key_are_a_setup_error() {
    let env = BTreeMap::from([("ONEIRO_AUTH_ALGORITHMS".to_owned(), "RS256".to_owned())]);
    let errors = Config::from_layers(Role::Api, None, &env).unwrap_err().to_string();
    assert!(errors.contains("RS256") && errors.contains("public_key_file"), "{errors}");
}
