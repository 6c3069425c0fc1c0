//! What the programs say before they do anything.

use anyhow::{Context, Result};
use fred::interfaces::HashesInterface;
use oneiro_tests::{Form, Oneiro, Spawn, Tier, free_port, photo, program};

const PROGRAMS: [&str; 4] = ["api", "ws", "worker", "oneiro"];
const SECRET: &str = "a secret for tests only, longer than 32 bytes";

#[tokio::test(flavor = "multi_thread")]
async fn every_program_tells_its_usage_and_version() -> Result<()> {
    for name in PROGRAMS {
        let (code, usage, _) = Spawn::new(program(name)?).arg("--help").run().await?;
        assert_eq!(code, 0, "{name} --help");
        assert!(usage.contains("Usage") && usage.contains("--check-config"), "{name} --help says {usage}");
        let (code, version, _) = Spawn::new(program(name)?).arg("--version").run().await?;
        assert_eq!(code, 0, "{name} --version");
        assert!(version.contains(env!("CARGO_PKG_VERSION")), "{name} --version says {version}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_program_checks_its_configuration_without_a_redis() -> Result<()> {
    for name in PROGRAMS {
        let spawn = Spawn::new(program(name)?).arg("--check-config").env("JWT_SECRET", SECRET);
        let (code, shown, errors) = spawn.env("REDIS_URL", "redis://:hunter2@127.0.0.1:1").run().await?;
        assert_eq!(code, 0, "{name}: {errors}");
        assert!(shown.contains("[redis]"), "{name} shows what is in force: {shown}");
        assert!(!shown.contains(SECRET) && !shown.contains("hunter2"), "{name} hides secrets: {shown}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_mistakes_are_told_together_before_anything_is_bound() -> Result<()> {
    for name in ["api", "ws", "worker"] {
        for check in [true, false] {
            let mut spawn = Spawn::new(program(name)?)
                .env("HTTP_ADDR", "somewhere")
                .env("WS_ADDR", "127.0.0.1")
                .env("REDIS_URL", "http://example.com")
                .env("STORAGE_URL", "ftp://example.com")
                .env("JWT_SECRET", "short")
                .env("LOG_FORMAT", "prose");
            if check {
                spawn = spawn.arg("--check-config");
            }
            let (code, _, errors) = spawn.run().await?;
            assert_eq!(code, 64, "{name}: {errors}");
            let mut named = vec!["HTTP_ADDR", "WS_ADDR", "REDIS_URL", "STORAGE_URL", "log"];
            if name != "worker" {
                named.push("JWT_SECRET");
            }
            for wrong in named {
                assert!(errors.contains(wrong), "{name} does not name {wrong}: {errors}");
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settings_file_is_read_and_its_unknown_keys_are_named() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("my settings.toml");
    std::fs::write(&file, "[uploads]\nmax_images = 7\n")?;
    let check = |file: &std::path::Path| {
        Ok::<_, anyhow::Error>(
            Spawn::new(program("api")?)
                .arg("--check-config")
                .env("JWT_SECRET", SECRET)
                .env("ONEIRO_CONFIG", file.display().to_string()),
        )
    };
    let (code, shown, errors) = check(&file)?.run().await?;
    assert_eq!(code, 0, "{errors}");
    assert!(shown.contains("max_images = 7"), "{shown}");
    let (_, shown, _) = check(&file)?.env("ONEIRO_UPLOADS_MAX_IMAGES", "9").run().await?;
    assert!(shown.contains("max_images = 9"), "the environment is stronger: {shown}");

    std::fs::write(&file, "[uploads]\nmax_image = 7\n[dreems]\nx = 1\n")?;
    let (code, _, errors) = check(&file)?.run().await?;
    assert_eq!(code, 64);
    assert!(errors.contains("max_image") && errors.contains("dreems"), "{errors}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn port_as_procfile_runners_set_it_moves_the_address() -> Result<()> {
    for (name, key) in [("api", "http"), ("ws", "ws")] {
        let port = free_port().to_string();
        let spawn = Spawn::new(program(name)?).arg("--check-config").env("JWT_SECRET", SECRET).env("PORT", &port);
        let (code, shown, errors) = spawn.run().await?;
        assert_eq!(code, 0, "{errors}");
        let section = shown.split(&format!("[{key}]")).nth(1).context("the section")?;
        assert!(section.trim_start().starts_with(&format!("addr = \"127.0.0.1:{port}\"")), "{name}: {section}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_address_is_a_clear_error() -> Result<()> {
    let oneiro = Oneiro::builder().workers(0).start().await?;
    // The same settings again, beside the programs that have them already.
    for (name, tier) in [("api", Tier::Api), ("ws", Tier::Ws)] {
        let (code, out, errors) = Spawn::new(program(name)?).envs(oneiro.env()).run().await?;
        assert_ne!(code, 0, "{name}");
        let said = format!("{out}{errors}");
        assert!(said.contains(&oneiro.port(tier).to_string()), "{name} names the address: {said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_arguments_are_sealed_in_redis_once_there_are_keys() -> Result<()> {
    let stored = async |oneiro: &Oneiro| -> Result<String> {
        let records: Vec<Vec<u8>> = oneiro.redis_client().await?.hvals("aq:{images}:jobs").await?;
        anyhow::ensure!(records.len() == 1, "{} jobs are stored", records.len());
        Ok(String::from_utf8_lossy(&records.concat()).into_owned())
    };
    let form = || Ok::<_, anyhow::Error>(Form::new("Secret", "text").image(1, photo::jpeg(64, 48, 1)?, 0));
    let open = Oneiro::builder().workers(0).start().await?;
    open.user(1)?.dream(form()?).await?;
    assert!(stored(&open).await?.contains("dream_id"), "arguments are legible without keys");

    let keys = format!("2026-11:{},2026-05:{}", "4f".repeat(32), "a1".repeat(32));
    let mut sealed = Oneiro::builder().workers(0).env("ONEIRO_QUEUES_ENCRYPTION_KEYS", keys).start().await?;
    let ada = sealed.user(1)?;
    let id = ada.dream(form()?).await?;
    let record = stored(&sealed).await?;
    assert!(!record.contains("dream_id") && record.contains("2026-11"), "{record}");
    sealed.start_worker()?;
    ada.settled(id, "completed").await?;
    Ok(())
}
