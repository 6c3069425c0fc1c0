use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect()
}

#[test]
fn defaults_are_complete_but_for_the_secret() {
    let errors = Config::from_layers(Role::Api, None, &env(&[])).unwrap_err();
    assert_eq!(errors.messages().len(), 1, "{errors}");
    assert!(errors.messages()[0].contains("JWT_SECRET"), "{errors}");
    Config::from_layers(Role::Worker, None, &env(&[])).expect("a worker needs no secret");
}

#[test]
fn all_mistakes_are_reported_together() {
    let errors = Config::from_layers(
        Role::Api,
        None,
        &env(&[
            ("HTTP_ADDR", "nowhere"),
            ("REDIS_URL", "http://x"),
            ("STORAGE_URL", "ftp://x"),
            ("JWT_SECRET", "short"),
            ("ONEIRO_UPLOADS_MAX_IMAGES", "many"),
            ("RUST_LOG", "a=b=c"),
        ]),
    )
    .unwrap_err()
    .to_string();
    for name in ["HTTP_ADDR", "REDIS_URL", "STORAGE_URL", "JWT_SECRET", "ONEIRO_UPLOADS_MAX_IMAGES", "RUST_LOG"] {
        assert!(errors.contains(name), "{name} is missing from: {errors}");
    }
}

#[test]
fn what_would_break_later_is_refused() {
    for (name, value, told) in [
        ("ONEIRO_HTTP_CORS_ORIGINS", "https://app.example/", "http.cors_origins"),
        ("ONEIRO_UPLOADS_MAX_IMAGES", "499", "uploads.max_images"),
        ("ONEIRO_WORKER_SWEEP_AFTER_SECONDS", "0", "worker.sweep_after_seconds"),
        ("ONEIRO_QUEUES_DEAD_RETENTION_SECONDS", "599", "queues.dead_retention_seconds"),
        ("ONEIRO_QUEUES_DEAD_RETENTION_COUNT", "999", "queues.dead_retention_count"),
    ] {
        let errors = Config::from_layers(Role::Api, None, &env(&[("JWT_SECRET", SECRET), (name, value)])).unwrap_err();
        assert!(errors.to_string().contains(told), "{told} is missing from: {errors}");
    }
    let slow = [("ONEIRO_WORKER_CONVERTER", r#"["cat"]"#), ("ONEIRO_WORKER_CONVERTER_TIMEOUT_SECONDS", "40")];
    let errors = Config::from_layers(Role::Worker, None, &env(&slow)).unwrap_err().to_string();
    assert!(errors.contains("worker.converter_timeout_seconds"), "{errors}");
}

#[test]
fn port_replaces_the_port_unless_the_address_is_explicit() {
    let with = |pairs: &[(&str, &str)]| Config::from_layers(Role::Api, None, &env(pairs)).unwrap();
    assert_eq!(with(&[("JWT_SECRET", SECRET), ("PORT", "5000")]).http.addr, "127.0.0.1:5000");
    for name in ["HTTP_ADDR", "ONEIRO_HTTP_ADDR"] {
        assert_eq!(with(&[("JWT_SECRET", SECRET), ("PORT", "5000"), (name, "0.0.0.0:9")]).http.addr, "0.0.0.0:9");
    }
    assert_eq!(with(&[("JWT_SECRET", SECRET), ("PORT", "")]).http.addr, "127.0.0.1:8000");
    assert!(Config::from_layers(Role::Api, None, &env(&[("JWT_SECRET", SECRET), ("PORT", "x")])).is_err());
}

#[test]
fn a_file_overrides_defaults_and_unknown_keys_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("oneiro.toml");
    std::fs::write(&path, "[uploads]\nmax_images = 3\n[images]\nbackground = \"#ffffff\"\n").unwrap();
    let config = Config::from_layers(Role::Worker, Some(&path), &env(&[])).unwrap();
    assert_eq!(config.uploads.max_images, 3);
    assert_eq!(config.images.pipeline["background"].as_str(), Some("#ffffff"));
    std::fs::write(&path, "[uploads]\nmax_imgs = 3\nmax_images = \"3\"\n[nope]\n").unwrap();
    let errors = Config::from_layers(Role::Worker, Some(&path), &env(&[])).unwrap_err().to_string();
    for word in ["max_imgs", "uploads.max_images", "[nope]"] {
        assert!(errors.contains(word), "{word} is missing from: {errors}");
    }
}

#[test]
fn a_variable_that_names_no_key_is_refused_and_those_of_others_are_not() {
    let with = |name: &str| Config::from_layers(Role::Worker, None, &env(&[(name, "1")]));
    for name in ["ONEIRO_UPLOADS_MAX_IMGS", "ONEIRO_IMAGES_DAMAGED", "ONEIRO_LOG_"] {
        let errors = with(name).unwrap_err().to_string();
        assert!(errors.contains(name), "{name} is missing from: {errors}");
    }
    // Those of other sections, and what Kubernetes sets for services of such names.
    for name in [
        "ONEIRO_URL",
        "ONEIRO_TEST_SCALE",
        "ONEIRO_WORKERS",
        "UPLOADS_MAX_IMGS",
        "ONEIRO_REDIS_SERVICE_HOST",
        "ONEIRO_WS_PORT_8001_TCP_ADDR",
        "ONEIRO_WS_PORT",
    ] {
        with(name).unwrap_or_else(|errors| panic!("{name} is not ours: {errors}"));
    }
}

#[test]
fn encryption_keys_are_read_checked_and_not_shown() {
    let with = |keys: &str| {
        let env = env(&[("ONEIRO_QUEUES_ENCRYPTION_KEYS", keys)]);
        Config::from_layers(Role::Worker, None, &env).map_err(|errors| errors.to_string())
    };
    let (new, old) = ("0a".repeat(32), "FF".repeat(32));
    assert!(with("").unwrap().queues.keys().unwrap().is_none());
    let config = with(&format!("2026-11:{new}, 2026-05:{old}")).unwrap();
    let ring = config.queues.keys().unwrap().unwrap();
    assert_eq!(ring.ids().collect::<Vec<_>>(), ["2026-11", "2026-05"]);
    assert!(!config.to_toml().contains(&new) && !format!("{config:?}").contains(&new));
    let (short, not_hex, odd) = ("0a".repeat(31), "+f".repeat(32), "0a0".repeat(21));
    for bad in [
        &new,
        &format!("a:{short}"),
        &format!("a:{not_hex}"),
        &format!("a:{odd}"),
        &format!("a:{new},a:{old}"),
        &format!("a b:{new}"),
    ] {
        let error = with(bad).unwrap_err();
        assert!(error.contains("queues.encryption_keys"), "{error}");
        assert!(!error.contains(&new), "the key is in {error}");
    }
}

#[test]
fn secrets_are_not_shown() {
    let config = Config::from_layers(
        Role::Api,
        None,
        &env(&[("JWT_SECRET", SECRET), ("REDIS_URL", "redis://:hunter2@localhost:1/0")]),
    )
    .unwrap();
    for shown in [config.to_toml(), format!("{config:?}")] {
        assert!(!shown.contains(SECRET) && !shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn lists_come_from_the_environment_separated_by_commas() {
    let config = Config::from_layers(
        Role::Worker,
        None,
        &env(&[("ONEIRO_HTTP_CORS_ORIGINS", "https://a.example, https://b.example")]),
    )
    .unwrap();
    assert_eq!(config.http.cors_origins, ["https://a.example", "https://b.example"]);
}

#[test]
fn the_reference_states_the_socket_tiers_own_defaults() {
    let config = Config::from_layers(Role::Worker, None, &env(&[])).unwrap();
    assert_eq!(format!("{:?}", config.realtime), format!("{:?}", RealtimeSettings::default()));
}
