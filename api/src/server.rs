//! HTTP/1.1 for poem's endpoints. poem's own server keeps a task, a lock and two boxes per upgraded connection, sets no deadline for a request's
//! head, and does not hand the bare socket out; this one does, and leaves the rest to hyper.

use crate::{
    error::report,
    listener::{Connection, Limits, Upgrade, Watch, Watchman},
};
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use poem::{
    Endpoint, Request, Response,
    http::uri::Scheme,
    web::{LocalAddr, RemoteAddr},
};
use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// After a failed accept (no file descriptors left, above all) the next one waits, rather than spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves connections until `stop`, then lets requests under way finish for at most `patience`.
///
/// # Errors
/// Where the listener cannot tell its address.
pub(crate) async fn serve<E: Endpoint<Output = Response> + 'static>(
    listener: TcpListener,
    endpoint: E,
    limits: Limits,
    stop: impl Future<Output = ()>,
    patience: Duration,
) -> io::Result<()> {
    let local = listener.local_addr()?;
    let endpoint = Arc::new(endpoint);
    let (stopping, connections) = (CancellationToken::new(), TaskTracker::new());
    let watchman = Watchman::new(limits);
    // Ends with this function.
    let _watch = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(watchman.clone().keep()));
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(error = report(&error), "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(watch) = watchman.admit() else {
            metrics::counter!("oneiro_http_cut_total", "reason" => "connections").increment(1);
            continue;
        };
        // Small frames go out at once; Nagle's algorithm would hold them back for up to 40 ms.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(error = report(&error), "a connection ended before it was set up");
            continue;
        }
        connections.spawn(converse(stream, watch, endpoint.clone(), local, peer, stopping.clone()));
    }
    drop(listener);
    stopping.cancel();
    connections.close();
    if tokio::time::timeout(patience, connections.wait()).await.is_err() {
        tracing::warn!(left = connections.len(), "requests under way were cut off");
    }
    Ok(())
}

/// One connection, request after request.
async fn converse<E: Endpoint<Output = Response> + 'static>(
    stream: TcpStream,
    watch: Arc<Watch>,
    endpoint: Arc<E>,
    local: SocketAddr,
    peer: SocketAddr,
    stopping: CancellationToken,
) {
    let io = TokioIo::new(Connection::new(stream, watch.clone()));
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        watch.begin_exchange();
        let upgrade = Upgrade::of(&mut request);
        let addresses = (LocalAddr(local.into()), RemoteAddr(peer.into()));
        let mut request = Request::from((request, addresses.0, addresses.1, Scheme::HTTP));
        request.extensions_mut().insert(upgrade);
        let (endpoint, watch) = (endpoint.clone(), watch.clone());
        async move {
            let response = hyper::Response::from(endpoint.get_response(request).await);
            Ok::<_, Infallible>(response.map(|body| Answer { body, watch }))
        }
    });
    let mut connection = pin!(http1::Builder::new().serve_connection(io, service).with_upgrades());
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = report(&error), "a connection ended badly");
    }
}

/// An answer's body. The exchange ends with it: an event stream goes on for hours behind its head.
struct Answer<B> {
    body: B,
    watch: Arc<Watch>,
}

impl<B: Body + Unpin> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Answer<B> {
    fn drop(&mut self) {
        self.watch.end_exchange();
    }
}
