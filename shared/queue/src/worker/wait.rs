//! How an idle worker waits for work: a blocking pop of the wake-up token.

use std::{task::Poll, time::Duration};

use fred::{
    clients::{Client, WithOptions},
    error::Error,
    interfaces::ClientLike,
    types::{ClusterHash, CustomCommand, Value, config::Options},
};
use futures::{FutureExt, future::BoxFuture};

use super::{
    connect::{renew, renew_after},
    step::{self, Claim},
};
use crate::{QueueError, scripts};

/// How long an idle worker sleeps at most: below it lies only the rare wake-up that died with the worker that took it.
const NAP: Duration = Duration::from_secs(4);
/// Longer than two naps: behind a wait that was given up the next one stands in line on the same connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// A wait under way.
pub(super) struct Wait {
    /// Whether it also claims. One that does is given up only by who bars its tokens, too.
    pub(super) claims: bool,
    pub(super) call: BoxFuture<'static, Woken>,
}

/// How a wait ended: with a token or with nothing after the nap.
pub(super) struct Woken {
    /// Redis did not do as it was told.
    pub(super) is_refused: bool,
    /// What a wait that claims brought.
    pub(super) claim: Option<Result<Claim, QueueError>>,
}

/// Waits for a token.
pub(super) fn for_work(client: Client, key: String) -> Wait {
    let call = async move {
        let popped = pop(&calls(&client), key, true).await;
        if let Err(error) = &popped {
            renew(&client, error).await;
        }
        Woken { is_refused: popped.is_err(), claim: None }
    };
    Wait { claims: false, call: call.boxed() }
}

/// Waits for a token and claims a job with these arguments when there is one, or after the nap.
///
/// Both commands are sent at once: while a connection is blocked, Redis leaves what follows unread, and runs it in the same turn in
/// which the pop ends. So the job is under way when the worker wakes up.
pub(super) fn to_claim(client: Client, key: String, prefix: String, args: Vec<Value>) -> Wait {
    let call = async move {
        let calls = calls(&client);
        // To the client a blocking command: it would hold back the claim until the pop has ended.
        let mut popping = Box::pin(pop(&calls, key, false));
        let sent = futures::poll!(popping.as_mut());
        let claim = scripts::run(&calls, &scripts::CLAIM, &prefix, args).await.and_then(step::read_claim);
        let popped = match sent {
            Poll::Ready(popped) => Some(popped),
            // Its answer came before the claim's.
            Poll::Pending => popping.now_or_never(),
        };
        if let Err(error) = &claim {
            renew_after(&client, error).await;
        }
        Woken { is_refused: popped.is_some_and(|popped| popped.is_err()), claim: Some(claim) }
    };
    Wait { claims: true, call: call.boxed() }
}

fn calls(client: &Client) -> WithOptions<Client> {
    client.with_options(&Options {
        max_attempts: scripts::writes(client),
        timeout: Some(PATIENCE),
        ..Options::default()
    })
}

async fn pop(calls: &WithOptions<Client>, key: String, blocks: bool) -> Result<Value, Error> {
    let pop = CustomCommand::new_static("BLPOP", ClusterHash::FirstKey, blocks);
    calls.custom(pop, vec![key, NAP.as_secs().to_string()]).await
}
