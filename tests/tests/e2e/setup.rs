//! `scripts/setup`, on machines that lack something.

use anyhow::{Context, Result, ensure};
use oneiro_tests::{Spawn, project_root};
use std::{
    fs::{Permissions, read_to_string, set_permissions, write},
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};
use tempfile::TempDir;

/// A machine with nothing but what is made here; its package manager has everything but a browser, and notes what it is asked.
struct Machine(TempDir);

impl Machine {
    fn new(user: u32) -> Result<Self> {
        let machine = Self(tempfile::tempdir()?);
        for name in ["awk", "basename", "bash", "cat", "chmod", "dirname", "env", "mkdir", "sed", "sh", "tail", "uname"]
        {
            let real = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(name));
            symlink(real.iter().find(|path| path.exists()).context(name)?, machine.0.path().join(name))?;
        }
        machine.program("id", &format!("echo {user}"))?;
        machine.program(
            "apt-get",
            "echo \"apt-get $*\" >>\"$0.asked\"; [ \"$1\" = install ] || exit 0\n\
             for name in \"$@\"; do case $name in -*) ;; chromium) exit 100 ;; *) echo '#!/bin/sh' >\"${0%/*}/$name\"; chmod 755 \"${0%/*}/$name\" ;; esac; done",
        )?;
        machine.program("cargo", "[ \"$1\" = deny ] || { echo \"cargo $*\" >>\"$0.asked\"; exit 1; }")?;
        machine.program("rustc", "echo 'rustc 1.99.0'")?;
        machine.program("redis-server", "echo 'Redis server v=7.4.0 sha=0'")?;
        machine.program("node", "echo v20.0.0")?;
        for name in ["cc", "c++", "make", "cmake", "pkg-config", "curl", "ps", "npm", "shellcheck", "foreman"] {
            machine.program(name, "")?;
        }
        Ok(machine)
    }

    fn program(&self, name: &str, script: &str) -> Result<()> {
        let path = self.0.path().join(name);
        write(&path, format!("#!/bin/sh\n{script}\n"))?;
        Ok(set_permissions(path, Permissions::from_mode(0o755))?)
    }

    /// What a program was asked.
    fn asked(&self, name: &str) -> String {
        read_to_string(self.0.path().join(format!("{name}.asked"))).unwrap_or_default()
    }

    async fn setup(&self, args: &[&str]) -> Result<(i32, String)> {
        let spawn = Spawn::new(project_root().join("scripts/setup"))
            .env("PATH", self.0.path().display().to_string())
            .env("ONEIRO_VAR", self.0.path().join("var").display().to_string());
        let (code, out, errors) = args.iter().fold(spawn, |spawn, arg| spawn.arg(*arg)).run().await?;
        Ok((code, out + &errors))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_cannot_be_had_keeps_nothing_else_away() -> Result<()> {
    let machine = Machine::new(0)?;
    let (code, said) = machine.setup(&["--tests", "--no-browser"]).await?;
    ensure!(code == 0 && machine.0.path().join("nasm").exists(), "{code}: {said}");
    ensure!(!machine.asked("apt-get").contains("chromium"), "{}", machine.asked("apt-get"));
    std::fs::remove_file(machine.0.path().join("nasm"))?;
    let (code, said) = machine.setup(&["--tests"]).await?;
    ensure!(code == 1 && said.contains("missing: Chromium or Chrome"), "{code}: {said}");
    ensure!(machine.0.path().join("nasm").exists(), "the rest is installed: {said}");
    // Cargo finds a program of its own that is not in PATH.
    assert_eq!(machine.asked("cargo"), "");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_install_is_told_the_whole_command() -> Result<()> {
    let machine = Machine::new(1000)?;
    let (code, said) = machine.setup(&[]).await?;
    ensure!(code == 1 && said.contains("apt-get install -y --no-install-recommends nasm"), "{code}: {said}");
    assert_eq!(machine.asked("apt-get"), "", "nothing is begun");
    Ok(())
}
