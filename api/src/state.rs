//! What every route shares. All of it is a handle; no state lives here that another process would need.

use crate::{ApiError, error::report, socket::SocketContext};
use metrics_exporter_prometheus::PrometheusHandle;
use oneiro_core::{
    auth::{AuthError, Claims, UserId, Verifier},
    config::Config,
    dreams::DreamStore,
    jobs::Queues,
    storage::Storage,
};
use poem::{FromRequest, Request, RequestBody, http::header, web::Data};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

/// How long one probe's answer stands.
const PROBE_AGE: Duration = Duration::from_secs(2);

/// What the routes share.
pub struct AppState {
    /// Settings in force.
    pub config: Config,
    /// Checks tokens.
    pub verifier: Verifier,
    /// Records.
    pub dreams: DreamStore,
    /// Jobs.
    pub queues: Queues,
    /// Originals and variants.
    pub storage: Storage,
    /// The Redis connection of records and jobs, for readiness. `None` where only sockets are served: they have their own.
    pub redis: Option<fred::clients::Client>,
    /// What `/metrics` renders.
    pub metrics: Option<PrometheusHandle>,
    /// The socket tier, where this process runs one, for readiness.
    pub sockets: Option<Arc<SocketContext>>,
    uploads: Arc<Semaphore>,
    /// Uploads under way by user; bounded by [`Self::uploads`].
    uploading: parking_lot::Mutex<HashMap<UserId, usize>>,
    storage_probe: Mutex<Option<(Instant, bool)>>,
    is_draining: AtomicBool,
}

impl AppState {
    /// Puts the handles together.
    #[expect(clippy::too_many_arguments, reason = "each is a different handle, named at the one call")]
    pub fn new(
        config: Config,
        verifier: Verifier,
        dreams: DreamStore,
        queues: Queues,
        storage: Storage,
        redis: Option<fred::clients::Client>,
        metrics: Option<PrometheusHandle>,
        sockets: Option<Arc<SocketContext>>,
    ) -> Self {
        let uploads = Arc::new(Semaphore::new(config.http.max_concurrent_uploads));
        Self {
            config,
            verifier,
            dreams,
            queues,
            storage,
            redis,
            metrics,
            sockets,
            uploads,
            uploading: parking_lot::Mutex::default(),
            storage_probe: Mutex::default(),
            is_draining: AtomicBool::new(false),
        }
    }

    /// A place among the uploads of this process; a full house is a 503 rather than a queue in memory. No user takes more than their share.
    ///
    /// # Errors
    /// 503 or 429 with Retry-After.
    pub(crate) fn admit_upload(self: &Arc<Self>, claims: &Claims) -> Result<UploadPlace, ApiError> {
        let place = self.uploads.clone().try_acquire_owned().map_err(|_| {
            metrics::counter!("oneiro_uploads_refused_total", "reason" => "busy").increment(1);
            ApiError::unavailable("too many uploads at once", Some(Duration::from_secs(1)))
        })?;
        let mut users = self.uploading.lock();
        let count = users.entry(claims.user_id.clone()).or_default();
        if *count >= self.config.uploads.max_concurrent_per_user {
            metrics::counter!("oneiro_uploads_refused_total", "reason" => "user").increment(1);
            return Err(ApiError::rate_limited(Duration::from_secs(1)));
        }
        *count += 1;
        Ok(UploadPlace { state: self.clone(), user: claims.user_id.clone(), _place: place })
    }

    /// Counts one storing call of this user, and refuses where there were too many in this minute.
    ///
    /// # Errors
    /// 429 with Retry-After; 503 where Redis does not answer.
    pub(crate) async fn count_call(&self, claims: &Claims) -> Result<(), ApiError> {
        match self.dreams.count_call(&claims.user_id, self.config.uploads.rate_per_minute).await? {
            None => Ok(()),
            Some(wait) => Err(ApiError::rate_limited(wait)),
        }
    }

    /// Whether the object store takes an object. Answers of the last moment are given again, so that nobody makes it write at will.
    pub(crate) async fn storage_answers(&self, limit: Duration) -> bool {
        // Held while probing: callers that come meanwhile wait for this probe instead of starting their own.
        let mut last = self.storage_probe.lock().await;
        if let Some((at, answer)) = *last
            && at.elapsed() < PROBE_AGE
        {
            return answer;
        }
        let answer = match tokio::time::timeout(limit, self.storage.check()).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::warn!(error = report(&error), "the object store fails its probe");
                false
            }
            Err(_) => false,
        };
        *last = Some((Instant::now(), answer));
        answer
    }

    /// From now on readiness says no, so that a load balancer stops sending.
    pub fn begin_draining(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    /// Whether the process is about to end.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }
}

/// A place among the uploads under way, until it is dropped.
pub(crate) struct UploadPlace {
    state: Arc<AppState>,
    user: UserId,
    _place: OwnedSemaphorePermit,
}

impl Drop for UploadPlace {
    fn drop(&mut self) {
        let mut users = self.state.uploading.lock();
        if let Some(count) = users.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                users.remove(&self.user);
            }
        }
    }
}

/// The verified bearer of a request. A handler that takes one cannot be reached without a token.
pub(crate) struct Bearer(pub(crate) Claims);

impl<'a> FromRequest<'a> for Bearer {
    async fn from_request(request: &'a Request, body: &mut RequestBody) -> poem::Result<Self> {
        let state = Data::<&Arc<AppState>>::from_request(request, body).await?;
        let header =
            request.header(header::AUTHORIZATION).ok_or_else(|| ApiError::unauthorized(&AuthError::Missing))?;
        let claims = state.verifier.verify(header).map_err(|error| ApiError::unauthorized(&error))?;
        Ok(Self(claims))
    }
}
