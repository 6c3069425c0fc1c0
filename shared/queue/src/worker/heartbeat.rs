//! The thread that proves a worker's life.
//!
//! It has its own runtime and its own connection, so handlers that hog the CPU or block the async threads cannot keep it from
//! renewing the leases. The same connection listens for commands, and each beat looks after workers that died.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use fred::{
    clients::{Client, WithOptions},
    interfaces::ClientLike,
    types::{ClusterHash, CustomCommand, Value, config::Options},
};

use super::{
    connect::{close, connected, renew, renew_after},
    shared::Shared,
};
use crate::{
    JobError, Queue, QueueError,
    options::{int, millis},
    scripts,
};

/// Beats in one lease: two may be lost before a worker is late. More would cost an idle worker more commands.
const BEATS: i64 = 3;
/// Jobs recovered by one call: about 5 ms of Redis.
const RECOVER: i64 = 300;

/// Starts the thread; it ends by itself when the worker is closed or gone.
pub(crate) fn spawn(shared: &Arc<Shared>) -> std::io::Result<()> {
    let weak = Arc::downgrade(shared);
    let clients: Vec<Client> = shared.sources.iter().map(|source| source.queue.client().clone()).collect();
    let name = format!("beat-{}", shared.sources[0].queue.name());
    std::thread::Builder::new().name(name).spawn(move || {
        match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                let beats = clients.iter().enumerate().map(|(at, client)| beat(&weak, at, client));
                runtime.block_on(futures::future::join_all(beats));
            }
            Err(error) => {
                tracing::error!(%error, "failed to start the heartbeat, this worker's jobs will be taken from it");
            }
        }
    })?;
    Ok(())
}

async fn beat(weak: &Weak<Shared>, at: usize, client: &Client) {
    let is_wanted = || weak.upgrade().is_some_and(|shared| !shared.is_closed.load(Ordering::Acquire));
    let Some(client) = connected(client, is_wanted).await else { return };
    let mut is_missed = false;
    loop {
        let Some(shared) = weak.upgrade() else { break };
        if shared.is_closed.load(Ordering::Acquire) {
            break;
        }
        let source = &shared.sources[at];
        let interval = Duration::from_millis(u64::try_from(source.queue.options().lease_ms() / BEATS).unwrap_or(250));
        let calls = client.with_options(&Options {
            max_attempts: scripts::writes(&client),
            timeout: Some(interval * 3),
            ..Options::default()
        });
        if let Err(error) = sign_of_life(&shared, at, &calls).await {
            tracing::debug!(%error, worker.name = shared.worker.name(), "failed to give a sign of life");
            if !is_missed && !source.is_alive() {
                is_missed = true;
                tracing::warn!(%error, source = ?std::error::Error::source(&error), worker.name = shared.worker.name(), queue.name = %source.queue.name(), "signs of life are not answered, the worker takes no jobs until one is");
            }
            // A queue out of reach offers nothing.
            source.pulse.offer(false);
            renew_after(&client, &error).await;
            tokio::time::sleep(interval / 2).await;
            continue;
        }
        if std::mem::take(&mut is_missed) {
            tracing::info!(worker.name = shared.worker.name(), queue.name = %source.queue.name(), "signs of life are answered again");
        }
        let key = source.queue.key(&format!("ctl:{}", source.number.load(Ordering::Relaxed)));
        drop(shared);
        listen(weak, at, &calls, key, interval).await;
    }
    close(&client).await;
}

async fn sign_of_life(shared: &Shared, at: usize, calls: &WithOptions<Client>) -> Result<(), QueueError> {
    let source = &shared.sources[at];
    loop {
        let number = source.number.load(Ordering::Relaxed);
        let queue = source.queue.options();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let poison = JobError {
            at_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            attempt: 0,
            message: "its worker died while the job ran, as often as is allowed".to_owned(),
            worker: String::new(),
        };
        let args: Vec<Value> = vec![
            number.into(),
            queue.lease_ms().into(),
            queue.grace_ms().into(),
            queue.poison_after.max(1).into(),
            serde_json::to_string(&shared.describe(at))?.into(),
            millis(queue.retention_completed.age).into(),
            int(queue.retention_completed.count).into(),
            millis(queue.retention_dead.age).into(),
            int(queue.retention_dead.count).into(),
            serde_json::to_string(&poison)?.into(),
            RECOVER.into(),
            shared.kind.as_str().into(),
        ];
        let sent = Instant::now();
        let reply: Vec<i64> = scripts::run(calls, &scripts::BEAT, source.queue.prefix(), args).await?;
        let [status, recovered, more, is_waiting] = reply[..] else {
            return Err(QueueError::Corrupt { what: "an answer to a heartbeat that cannot be read" });
        };
        source.note_beat(sent);
        if status == 1 && number > 0 {
            // Taken for dead: the fetch task gives up what it held and registers anew.
            source.number.compare_exchange(number, 0, Ordering::AcqRel, Ordering::Relaxed).ok();
            source.stir.notify_one();
        }
        let has_room = shared.held.lock().len() < shared.options.room();
        let is_open = !shared.is_quiet(at) && !shared.worker.is_shutting_down();
        source.pulse.offer(is_waiting == 1 && has_room && is_open);
        if recovered > 0 {
            tracing::warn!(queue.name = %source.queue.name(), recovered, "took jobs from a dead worker");
        }
        if more == 0 || recovered == 0 {
            return Ok(());
        }
    }
}

/// Waits for a command until the next beat is due.
async fn listen(weak: &Weak<Shared>, at: usize, calls: &WithOptions<Client>, key: String, patience: Duration) {
    let pop = CustomCommand::new_static("BLPOP", ClusterHash::FirstKey, true);
    let args: Vec<Value> = vec![key.into(), format!("{:.3}", patience.as_secs_f64()).into()];
    match calls.custom::<Value, _>(pop, args).await {
        Ok(Value::Array(reply)) => {
            let Some(shared) = weak.upgrade() else { return };
            let nonce = reply.get(1).and_then(Value::as_bytes).and_then(|command| shared.obey(at, command));
            if let Some(nonce) = nonce
                && let Err(error) = answer(&shared.sources[at].queue, calls, &nonce).await
            {
                tracing::debug!(%error, "failed to answer a ping");
            }
        }
        Ok(_) => {}
        Err(error) => {
            tracing::debug!(%error, "failed to listen for commands");
            renew(calls, &error).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn answer(queue: &Queue, calls: &WithOptions<Client>, nonce: &str) -> Result<(), QueueError> {
    /// Longer than anybody waits for it.
    const KEPT_S: i64 = 10;
    let args = vec![format!("pong:{nonce}").into(), 1.into(), KEPT_S.into()];
    let _: i64 = scripts::run(calls, &scripts::TELL, queue.prefix(), args).await?;
    Ok(())
}
