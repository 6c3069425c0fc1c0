//! HTTP/1.1 for poem's endpoints. poem's own server keeps a task, a lock and two boxes per upgraded connection, sets no deadline for a request's
//! head, and does not hand the bare socket out; this one does, and leaves the rest to hyper, except for handshakes that arrive whole (`first`).

use crate::{
    error::report,
    first::{self, First},
    listener::{Connection, Limits, Takeover, Upgrade, Watch, Watchman},
    rest::Rest,
};
use bytes::Bytes;
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use poem::{
    Endpoint, Request, Response,
    http::{HeaderValue, header::CONNECTION, uri::Scheme},
    web::{LocalAddr, RemoteAddr},
};
use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// After a failed accept (no file descriptors left, above all) the next one waits, rather than spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Bytes that a connection reads at once, and so the longest head of a request. The library's own 400 KiB make uploads no faster.
const READ_BUFFER: usize = 64 * 1024;
/// How long a client that goes on sending behind its refusal has to read that.
const LINGER: Duration = Duration::from_secs(10);

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
        let (connection, addresses) = (Connection::new(stream, watch), Addresses { local, peer });
        // Boxed, and gone before the connection is taken over: what a socket's task holds for hours stays small.
        let conversing = Box::pin(converse(connection, endpoint.clone(), addresses, stopping.clone()));
        let counted = connections.token();
        tokio::spawn(async move {
            let taken = conversing.await;
            drop(counted);
            if let Some((takeover, stream, early)) = taken {
                takeover(stream, early).await;
            }
        });
    }
    drop(listener);
    stopping.cancel();
    connections.close();
    if tokio::time::timeout(patience, connections.wait()).await.is_err() {
        tracing::warn!(left = connections.len(), "requests under way were cut off");
    }
    Ok(())
}

/// The two ends of a connection.
#[derive(Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
}

/// A connection that HTTP is done with, what was read of it on top, and how it goes on.
type Taken = (Takeover, TcpStream, Bytes);

/// One connection until it ends or is taken over.
async fn converse<E: Endpoint<Output = Response> + 'static>(
    mut connection: Connection,
    endpoint: Arc<E>,
    addresses: Addresses,
    stopping: CancellationToken,
) -> Option<Taken> {
    let first = tokio::select! {
        biased;
        first = first::read(&mut connection) => first,
        () = stopping.cancelled() => return None,
    };
    let outcome = match first {
        Ok(First::Handshake(handshake)) => first::answer(connection, &*endpoint, addresses, handshake).await,
        Ok(First::Other(read)) => {
            connection.put_back(read);
            exchange(connection, endpoint, addresses, stopping).await.map_err(io::Error::other)
        }
        Err(error) => Err(error),
    };
    outcome.unwrap_or_else(|error| {
        tracing::debug!(error = report(&error), "a connection ended badly");
        None
    })
}

/// Request after request, by hyper.
async fn exchange<E: Endpoint<Output = Response> + 'static>(
    connection: Connection,
    endpoint: Arc<E>,
    addresses: Addresses,
    stopping: CancellationToken,
) -> hyper::Result<Option<Taken>> {
    let (watch, upgrade) = (connection.watch().clone(), Upgrade::default());
    let agreed = upgrade.clone();
    let still_sends = Arc::new(AtomicBool::new(false));
    let lingers = still_sends.clone();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        watch.begin_exchange();
        let has_body = !request.body().is_end_stream();
        let (local, peer) = (LocalAddr(addresses.local.into()), RemoteAddr(addresses.peer.into()));
        let mut request = Request::from((request, local, peer, Scheme::HTTP));
        request.extensions_mut().insert(upgrade.clone());
        let rest = has_body.then(|| Rest::of(&mut request));
        let (endpoint, watch, still_sends) = (endpoint.clone(), watch.clone(), still_sends.clone());
        Box::pin(async move {
            let mut response = endpoint.get_response(request).await;
            if let Some(rest) = rest
                && !rest.read_away().await
            {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                still_sends.store(true, Ordering::Relaxed);
            }
            Ok::<_, Infallible>(hyper::Response::from(response).map(|body| Answer { body, watch }))
        })
    });
    let mut connection =
        http1::Builder::new().max_buf_size(READ_BUFFER).serve_connection(TokioIo::new(connection), service);
    let ended = tokio::select! {
        ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => ended,
        () = stopping.cancelled() => {
            Pin::new(&mut connection).graceful_shutdown();
            poll_fn(|cx| connection.poll_without_shutdown(cx)).await
        }
    };
    ended?;
    let parts = connection.into_parts();
    let mut stream = parts.io.into_inner().into_stream();
    match agreed.take() {
        Some(takeover) => Ok(Some((takeover, stream, parts.read_buf))),
        None => {
            // An error means that the client closed first.
            let _ = stream.shutdown().await;
            if lingers.load(Ordering::Relaxed) {
                // What it still sends would have the connection reset, and our answer lost with it.
                let mut nowhere = tokio::io::sink();
                tokio::select! {
                    _ = tokio::time::timeout(LINGER, tokio::io::copy(&mut stream, &mut nowhere)) => {}
                    () = stopping.cancelled() => {}
                }
            }
            Ok(None)
        }
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
