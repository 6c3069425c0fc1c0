//! Comparing who is here with what Redis holds.

use super::Presence;
use crate::EventError;
use fred::{clients::Client, interfaces::HashesInterface};
use futures::future::try_join_all;
use std::sync::atomic::Ordering;

/// Members that are compared at the same time.
const COMPARED: usize = 64;

impl Presence {
    /// Sets the counts in Redis to our own: those in doubt, and all of them where our lease ran out or the connection is another, as a failover or
    /// a restart may have lost the last writes.
    pub(super) async fn reconcile(&self) -> Result<(), EventError> {
        if self.own.is_unsure.swap(false, Ordering::Relaxed) {
            let known = match self.members_in_redis().await {
                Ok(known) => known,
                Err(error) => {
                    self.own.is_unsure.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            };
            let own: Vec<String> = self.own.counts.lock().keys().cloned().collect();
            self.own.doubtful.lock().extend(known.into_iter().chain(own));
        }
        let doubtful: Vec<String> = self.own.doubtful.lock().drain().collect();
        let mut parts = doubtful.chunks(COMPARED);
        while let Some(part) = parts.next() {
            // A part at a time: who comes or goes waits for no more.
            let _alone = self.own.changing.write().await;
            let comparing = part.iter().map(|member| async {
                let count = self.own.counts.lock().get(member).copied().unwrap_or(0);
                self.tell_connections(member, count, true).await
            });
            if let Err(error) = try_join_all(comparing).await {
                self.own.doubtful.lock().extend(part.iter().chain(parts.flatten()).cloned());
                return Err(error);
            }
        }
        Ok(())
    }

    /// Who is connected to this process, as far as Redis knows.
    async fn members_in_redis(&self) -> Result<Vec<String>, EventError> {
        let [.., node] = self.keys();
        let node = &node;
        let read = |client: Client| async move { client.hkeys(node).await };
        self.broker.shards().on(&self.options.channel, "list our members", read).await
    }
}
