//! Taking over what a stock apalis-redis storage stored.

use super::Queue;
use crate::{QueueError, QueueName, scripts};

/// Jobs moved by one step: about 10 ms of Redis.
const PART: i64 = 500;

impl Queue {
    /// Moves up to 500 waiting jobs of a stock apalis-redis queue into this one as jobs of `kind`, in one atomic step, and tells
    /// how many entries it went through; 0 means that none is left. Ids, attempts, run times, idempotency keys and metadata are
    /// kept. Stop the stock workers first: jobs that they hold are taken, too.
    ///
    /// Payloads stay as they were stored, in clear, also where this queue's are sealed ([`QueueOptions::keys`](crate::QueueOptions)):
    /// Redis moves them by itself and has no keys. [`update_payload`](Self::update_payload) seals one.
    ///
    /// # Errors
    /// [`QueueError::InvalidName`] for a bad kind; [`QueueError::Unavailable`] when Redis cannot be reached;
    /// [`QueueError::Refused`] on a Redis cluster, which the stock storage does not support.
    pub async fn adopt_stock_part(&self, stock_queue: &str, kind: &str) -> Result<usize, QueueError> {
        QueueName::try_from(kind)?;
        self.register().await?;
        let (taken, _moved): (usize, usize) =
            self.run(&scripts::ADOPT, vec![stock_queue.into(), kind.into(), PART.into()]).await?;
        Ok(taken)
    }

    /// All of [`adopt_stock_part`](Self::adopt_stock_part), and how many entries there were.
    ///
    /// # Errors
    /// As `adopt_stock_part`; what was moved until then stays moved, and calling again goes on.
    pub async fn adopt_stock(&self, stock_queue: &str, kind: &str) -> Result<usize, QueueError> {
        let mut adopted = 0;
        loop {
            let taken = self.adopt_stock_part(stock_queue, kind).await?;
            if taken == 0 {
                return Ok(adopted);
            }
            adopted += taken;
        }
    }
}
