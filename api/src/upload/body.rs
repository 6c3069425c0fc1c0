//! The request body as a stream that cannot outgrow its limits.

use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};
use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

/// The parser reads ahead for as long as bytes are at hand; a pause after so many keeps its buffer this small.
const READ_AHEAD_BYTES: u64 = 128 * 1024;
/// Bytes that may pass without completing a part's header or giving a piece of its content: more is an attack on the parser's memory.
/// The HTTP server may hand over pieces of up to some 400 KiB (ours: 64), and the parser may take two rounds of [`READ_AHEAD_BYTES`] and a piece before it
/// can show progress.
const MAX_UNPARSED_BYTES: u64 = 2 * 1024 * 1024;

/// What a body and those who parse it tell each other.
#[derive(Default)]
pub(super) struct Progress {
    read: AtomicU64,
    unparsed: AtomicU64,
    is_too_large: AtomicBool,
}

impl Progress {
    /// The parser made progress: what it read so far was worth reading.
    pub(super) fn note(&self) {
        self.unparsed.store(0, Relaxed);
    }

    /// Whether the body went beyond its limit.
    pub(super) fn is_too_large(&self) -> bool {
        self.is_too_large.load(Relaxed)
    }
}

pub(super) struct LimitedBody {
    stream: BoxStream<'static, io::Result<Bytes>>,
    limit: u64,
    since_pause: u64,
    progress: Arc<Progress>,
}

impl LimitedBody {
    pub(super) fn new(body: poem::Body, limit: u64) -> Self {
        Self { stream: body.into_bytes_stream().boxed(), limit, since_pause: 0, progress: Arc::default() }
    }

    pub(super) fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }
}

impl Stream for LimitedBody {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.since_pause >= READ_AHEAD_BYTES {
            self.since_pause = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.progress.unparsed.load(Relaxed) > MAX_UNPARSED_BYTES {
            return Poll::Ready(Some(Err(io::Error::other("a part's header does not end"))));
        }
        match self.stream.as_mut().poll_next(cx) {
            Poll::Ready(Some(Ok(bytes))) => {
                let length = bytes.len() as u64;
                self.since_pause += length;
                let progress = &self.progress;
                progress.unparsed.fetch_add(length, Relaxed);
                if progress.read.fetch_add(length, Relaxed) + length > self.limit {
                    progress.is_too_large.store(true, Relaxed);
                    return Poll::Ready(Some(Err(io::Error::other("the body is too large"))));
                }
                Poll::Ready(Some(Ok(bytes)))
            }
            Poll::Pending => {
                self.since_pause = 0;
                Poll::Pending
            }
            end => end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use multer::Multipart;

    /// Largest piece that hyper reads at once by itself.
    const PIECE: usize = 8192 + 4096 * 100;

    fn body(bytes: Vec<u8>, pieces: &[usize]) -> LimitedBody {
        let mut parts = Vec::new();
        let (mut rest, mut sizes) = (Bytes::from(bytes), pieces.iter().cycle());
        while !rest.is_empty() {
            let size = sizes.next().map_or(1, |&size| size.clamp(1, rest.len()));
            parts.push(Ok::<_, io::Error>(rest.split_to(size)));
        }
        LimitedBody::new(poem::Body::from_bytes_stream(futures::stream::iter(parts)), 1 << 30)
    }

    async fn read(body: LimitedBody) -> Result<Vec<usize>, multer::Error> {
        let progress = body.progress();
        let mut form = Multipart::new(body, "b");
        let mut sizes = Vec::new();
        // Notes less progress than the product does: a header does not count.
        while let Some(mut field) = form.next_field().await? {
            let mut size = 0;
            while let Some(chunk) = field.chunk().await? {
                progress.note();
                size += chunk.len();
            }
            sizes.push(size);
        }
        Ok(sizes)
    }

    #[tokio::test]
    async fn a_fast_sender_of_large_files_is_read_however_its_bytes_are_cut() {
        let file = 1_800_000;
        let mut form = Vec::new();
        for n in 0..3 {
            form.extend_from_slice(
                format!("--b\r\ncontent-disposition: form-data; name=\"f{n}\"; filename=\"f\"\r\n\r\n").as_bytes(),
            );
            form.extend(std::iter::repeat_n(b'x', file));
            form.extend_from_slice(b"\r\n");
        }
        form.extend_from_slice(b"--b--\r\n");
        for pieces in
            [&[PIECE][..], &[100_000, PIECE], &[PIECE, PIECE, 100_000], &[127 * 1024, PIECE], &[1, PIECE], &[8192]]
        {
            assert_eq!(read(body(form.clone(), pieces)).await.unwrap(), [file; 3], "{pieces:?}");
        }
    }

    #[tokio::test]
    async fn a_header_that_does_not_end_is_cut_off() {
        let mut form = b"--b\r\ncontent-disposition: form-data; name=\"".to_vec();
        form.extend(std::iter::repeat_n(b'x', 64 * 1024 * 1024));
        let body = body(form, &[PIECE]);
        let progress = body.progress();
        assert!(read(body).await.is_err());
        assert!(progress.read.load(Relaxed) < 2 * MAX_UNPARSED_BYTES, "and not much of it was taken in");
    }
}
