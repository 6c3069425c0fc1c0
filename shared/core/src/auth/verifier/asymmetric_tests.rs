//! Tokens of a login that signs with a private key of its own: only its public keys are configured here.

use super::*;
use crate::{
    clock,
    config::{Config, Role, Secret},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{EncodingKey, Header, jwk::Jwk};
use serde_json::{Value, json};
use std::{collections::BTreeMap, io::Write};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// One algorithm with two key pairs of it.
struct Family {
    algorithm: Algorithm,
    name: &'static str,
    one: Pair,
    two: Pair,
}

struct Pair {
    private: &'static str,
    public: &'static str,
    public_file: &'static str,
}

macro_rules! pair {
    ($name:literal) => {
        Pair {
            private: include_str!(concat!("test_keys/test_", $name, ".pem")),
            public: include_str!(concat!("test_keys/test_", $name, "_public.pem")),
            public_file: concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/src/auth/verifier/test_keys/test_",
                $name,
                "_public.pem"
            ),
        }
    };
}

const RSA: Family = Family { algorithm: Algorithm::RS256, name: "RS256", one: pair!("rsa_one"), two: pair!("rsa_two") };
const EC: Family = Family { algorithm: Algorithm::ES256, name: "ES256", one: pair!("ec_one"), two: pair!("ec_two") };
const ED: Family = Family { algorithm: Algorithm::EdDSA, name: "EdDSA", one: pair!("ed_one"), two: pair!("ed_two") };
const FAMILIES: [Family; 3] = [RSA, EC, ED];

impl Family {
    fn signer(&self, pair: &Pair) -> EncodingKey {
        let pem = pair.private.as_bytes();
        match self.algorithm {
            Algorithm::ES256 => EncodingKey::from_ec_pem(pem),
            Algorithm::EdDSA => EncodingKey::from_ed_pem(pem),
            _ => EncodingKey::from_rsa_pem(pem),
        }
        .unwrap()
    }

    fn token(&self, pair: &Pair, kid: Option<&str>) -> String {
        self.token_with(pair, kid, &json!({ "user_id": 7, "exp": now() + 600 }))
    }

    fn token_with(&self, pair: &Pair, kid: Option<&str>, claims: &Value) -> String {
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, claims, &self.signer(pair)).unwrap()
    }

    /// The public key as an entry of a JWKS.
    fn jwk(&self, pair: &Pair, kid: Option<&str>) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.signer(pair), self.algorithm).unwrap();
        jwk.common.key_id = kid.map(str::to_owned);
        let jwk = serde_json::to_value(jwk).unwrap();
        assert!(jwk.get("d").is_none(), "only what is public: {jwk}");
        jwk
    }
}

fn now() -> u64 {
    clock::unix_millis() / 1000
}

fn config(algorithms: &[&str]) -> AuthConfig {
    let env = BTreeMap::from([("JWT_SECRET".to_owned(), SECRET.to_owned())]);
    let defaults = Config::from_layers(Role::Api, None, &env).unwrap().auth;
    let algorithms = algorithms.iter().map(|&name| name.to_owned()).collect();
    AuthConfig { algorithms, jwt_secret: Secret::new(""), ..defaults }
}

fn with_pem(algorithms: &[&str], pair: &Pair) -> Result<Verifier, AuthSetupError> {
    Verifier::new(&AuthConfig { public_key_file: pair.public_file.to_owned(), ..config(algorithms) })
}

fn with_jwks(algorithms: &[&str], keys: &[Value]) -> Verifier {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    write!(file, "{}", json!({ "keys": keys })).unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    Verifier::new(&AuthConfig { jwks_file: path, ..config(algorithms) }).unwrap()
}

fn refusal(verifier: &Verifier, token: &str) -> String {
    verifier.verify(token).expect_err("the token is not to be believed").to_string()
}

#[test]
fn a_public_key_in_pem_believes_its_own_private_key_and_no_other() {
    for family in &FAMILIES {
        let verifier = with_pem(&[family.name], &family.one).unwrap();
        // One key that has no name of its own: it is tried whatever the token calls its key.
        for kid in [None, Some("any")] {
            let claims = verifier.verify(&family.token(&family.one, kid)).unwrap();
            assert_eq!(claims.user_id, UserId::from(7), "{}", family.name);
            let error = refusal(&verifier, &family.token(&family.two, kid));
            assert!(error.contains("signature"), "{}: {error}", family.name);
        }
        let old = family.token_with(&family.one, None, &json!({ "user_id": 7, "exp": 1_000_000_000 }));
        assert!(matches!(verifier.verify(&old), Err(AuthError::Expired)), "{}", family.name);
        let good = family.token(&family.one, None);
        let (head_and_body, _) = good.rsplit_once('.').unwrap();
        for changed in [format!("{head_and_body}."), format!("{head_and_body}.AAAA")] {
            refusal(&verifier, &changed);
        }
    }
}

#[test]
fn a_public_key_of_another_family_is_a_setup_error() {
    for (family, other) in [(&RSA, &EC), (&EC, &ED), (&ED, &RSA)] {
        let error = with_pem(&[family.name], &other.one).unwrap_err();
        assert!(matches!(error, AuthSetupError::NoKey(_)), "{}: {error}", family.name);
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"no key").unwrap();
    let nonsense = file.path().to_str().unwrap();
    for config in [
        AuthConfig { public_key_file: nonsense.to_owned(), ..config(&["RS256"]) },
        AuthConfig { jwks_file: nonsense.to_owned(), ..config(&["RS256"]) },
    ] {
        assert!(matches!(Verifier::new(&config), Err(AuthSetupError::BadKey { .. })));
    }
    let config = AuthConfig { jwks_file: format!("{nonsense}.not_there"), ..config(&["RS256"]) };
    assert!(matches!(Verifier::new(&config), Err(AuthSetupError::Unreadable { .. })));
}

#[test]
fn a_key_of_a_set_is_found_by_its_kid() {
    for family in &FAMILIES {
        let keys = [family.jwk(&family.one, Some("1")), family.jwk(&family.two, Some("2"))];
        let verifier = with_jwks(&[family.name], &keys);
        for (pair, kid) in [(&family.one, "1"), (&family.two, "2")] {
            assert_eq!(verifier.verify(&family.token(pair, Some(kid))).unwrap().user_id, UserId::from(7));
        }
        // Another key of the set has signed it, under a name that is not its own; and a name that the set does not know.
        for (pair, kid) in [(&family.one, "2"), (&family.two, "1"), (&family.one, "3"), (&family.one, "")] {
            refusal(&verifier, &family.token(pair, Some(kid)));
        }
    }
}

#[test]
fn without_a_kid_every_key_of_a_set_is_tried() {
    for family in &FAMILIES {
        let [one, two] = [&family.one, &family.two].map(|pair| family.token(pair, None));
        let only = with_jwks(&[family.name], &[family.jwk(&family.one, Some("1"))]);
        assert!(only.verify(&one).is_ok(), "{}", family.name);
        refusal(&only, &two);

        let both = [family.jwk(&family.one, Some("1")), family.jwk(&family.two, Some("2"))];
        let both = with_jwks(&[family.name], &both);
        assert!(both.verify(&one).is_ok() && both.verify(&two).is_ok(), "{}", family.name);
        // Whoever signs in anew on `Expired` must hear it whichever key had signed.
        for pair in [&family.one, &family.two] {
            let old = family.token_with(pair, None, &json!({ "user_id": 7, "exp": 1_000_000_000 }));
            assert!(matches!(both.verify(&old), Err(AuthError::Expired)), "{}", family.name);
        }

        // A key without a name fits any token.
        let nameless = with_jwks(&[family.name], &[family.jwk(&family.one, None)]);
        assert!(nameless.verify(&family.token(&family.one, Some("1"))).is_ok(), "{}", family.name);
    }
}

#[test]
fn a_set_of_many_families_serves_each_and_holds_what_is_not_for_us() {
    let mut keys: Vec<Value> = FAMILIES.iter().map(|family| family.jwk(&family.one, Some("same"))).collect();
    let mut for_encryption = RSA.jwk(&RSA.two, Some("enc"));
    for_encryption["use"] = "enc".into();
    for_encryption["alg"] = "RSA-OAEP".into();
    keys.push(for_encryption);
    keys.push(json!({ "kty": "AKP", "kid": "later", "alg": "ML-DSA-44", "pub": "AAAA" }));
    let verifier = with_jwks(&["RS256", "ES256", "EdDSA"], &keys);
    for family in &FAMILIES {
        assert!(verifier.verify(&family.token(&family.one, Some("same"))).is_ok(), "{}", family.name);
    }
    for kid in [Some("enc"), None] {
        refusal(&verifier, &RSA.token(&RSA.two, kid));
    }
}

#[test]
fn an_algorithm_that_is_not_listed_is_refused_though_its_key_is_there() {
    let keys: Vec<Value> = FAMILIES.iter().map(|family| family.jwk(&family.one, None)).collect();
    for listed in &FAMILIES {
        let verifier = with_jwks(&[listed.name], &keys);
        for family in &FAMILIES {
            let token = family.token(&family.one, None);
            assert_eq!(verifier.verify(&token).is_ok(), family.name == listed.name, "{} {}", listed.name, family.name);
        }
    }
    // The same key can sign with more than one algorithm of its family.
    let other = jsonwebtoken::encode(
        &Header::new(Algorithm::RS512),
        &json!({ "user_id": 7, "exp": now() + 600 }),
        &RSA.signer(&RSA.one),
    )
    .unwrap();
    refusal(&with_pem(&["RS256"], &RSA.one).unwrap(), &other);
    assert!(with_pem(&["RS256", "RS512"], &RSA.one).unwrap().verify(&other).is_ok());
}

#[test]
fn a_public_key_is_no_shared_secret() {
    let claims = json!({ "user_id": 7, "exp": now() + 600 });
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    for family in &FAMILIES {
        let jwk = family.jwk(&family.one, Some("1"));
        let secret = Secret::new(SECRET);
        let pem = family.one.public_file.to_owned();
        let with_secret = AuthConfig { public_key_file: pem, jwt_secret: secret, ..config(&["HS256", family.name]) };
        let verifiers = [
            with_pem(&[family.name], &family.one).unwrap(),
            with_jwks(&[family.name], std::slice::from_ref(&jwk)),
            // Where both kinds are taken, each algorithm has its own key.
            Verifier::new(&with_secret).unwrap(),
        ];
        let pem = family.one.public;
        let der = pem.lines().filter(|line| !line.starts_with('-')).collect::<String>();
        let der = base64::engine::general_purpose::STANDARD.decode(der).unwrap();
        let known = [pem.as_bytes().to_vec(), pem.trim_end().as_bytes().to_vec(), der, jwk.to_string().into_bytes()];
        for verifier in &verifiers {
            assert!(verifier.verify(&family.token(&family.one, Some("1"))).is_ok(), "{}", family.name);
            for public in &known {
                for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
                    let header = Header { kid: Some("1".to_owned()), ..Header::new(algorithm) };
                    let token = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(public)).unwrap();
                    refusal(verifier, &token);
                }
            }
            for none in ["none", "None", "NONE", ""] {
                let head_and_body = format!("{}.{}", part(&json!({ "alg": none, "typ": "JWT" })), part(&claims));
                for signature in ["", "AAAA"] {
                    refusal(verifier, &format!("{head_and_body}.{signature}"));
                }
                refusal(verifier, &head_and_body);
            }
            // A key that the token brings along is nobody's.
            let header = Header {
                jwk: serde_json::from_value(family.jwk(&family.two, None)).ok(),
                ..Header::new(family.algorithm)
            };
            assert!(header.jwk.is_some());
            refusal(verifier, &jsonwebtoken::encode(&header, &claims, &family.signer(&family.two)).unwrap());
        }
    }
}
