//! Accepting connections: small frames at once, and no connection that is silent for ever.

use crate::error::report;
use poem::{
    http::uri::Scheme,
    listener::{Acceptor, TcpAcceptor},
    web::{LocalAddr, RemoteAddr},
};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep},
};

/// A connection over which nothing went in either direction for so long is closed. Sockets are pinged more often than that.
const SILENCE_LIMIT: Duration = Duration::from_secs(150);
/// After a failed accept (no file descriptors left, above all) the next one waits, rather than spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts TCP connections.
pub(crate) struct Connections(pub(crate) TcpAcceptor);

impl Acceptor for Connections {
    type Io = Connection;

    fn local_addr(&self) -> Vec<LocalAddr> {
        self.0.local_addr()
    }

    async fn accept(&mut self) -> io::Result<(Self::Io, LocalAddr, RemoteAddr, Scheme)> {
        let (stream, local, remote, scheme) = match self.0.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                return Err(error);
            }
        };
        // poem leaves Nagle's algorithm on, which holds small frames back for up to 40 ms.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(error = report(&error), "a connection ended before it was set up");
        }
        let silence = Box::pin(tokio::time::sleep(SILENCE_LIMIT));
        Ok((Connection { stream, silence, last: Instant::now() }, local, remote, scheme))
    }
}

/// One connection with its silence measured. hyper's own limit on request heads needs a timer that poem does not set.
pub(crate) struct Connection {
    stream: TcpStream,
    silence: Pin<Box<Sleep>>,
    last: Instant,
}

impl Connection {
    /// Something went over the connection. The timer itself is moved only when it fires, so that traffic costs no timer work.
    fn note(&mut self) {
        self.last = Instant::now();
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.silence.as_mut().poll(cx).is_ready() {
            let due = self.last + SILENCE_LIMIT;
            if due <= Instant::now() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the connection was silent for too long"));
            }
            self.silence.as_mut().reset(due);
        }
        Ok(())
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Pending => match self.check(cx) {
                Ok(()) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            },
            ready => {
                self.note();
                ready
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Connection {
    fn wrote(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match polled {
            Poll::Pending => match self.check(cx) {
                Ok(()) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            },
            ready => {
                self.note();
                ready
            }
        }
    }
}
