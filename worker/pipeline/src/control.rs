//! How the caller stops work that is under way: between stages, and within a decode whenever the decoder asks for more input.

use std::cell::{Cell, RefCell};
use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::ops::ControlFlow;

use crate::PipelineError;

/// Where in the work the control callback is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// The header was read and is within the limits; decoding comes next.
    Probed,
    /// The decoder took another 16 KiB of input: of the first frame, and after [`Decoded`](Self::Decoded) of the frames of an animation.
    /// Not asked for JPEG, whose decoder runs in one go; its scans are limited instead.
    Decoding,
    /// The pixels are decoded; the first variant comes next.
    Decoded,
    /// A size, or a frame of an animation, is about to be rendered.
    Rendering {
        /// Variants finished.
        done: usize,
        /// Variants in all.
        total: usize,
    },
    /// A variant is rendered and about to be encoded.
    Encoding {
        /// Variants finished.
        done: usize,
        /// Variants in all.
        total: usize,
    },
    /// A variant was encoded.
    Encoded {
        /// Variants finished, this one included.
        done: usize,
        /// Variants in all.
        total: usize,
    },
}

/// Why the control callback stops the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stop {
    /// Nobody wants the result any more: [`PipelineError::Cancelled`].
    Cancelled,
    /// It took longer than the caller allows: [`PipelineError::TimedOut`].
    TimedOut,
}

impl From<Stop> for PipelineError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Cancelled => Self::Cancelled,
            Stop::TimedOut => Self::TimedOut,
        }
    }
}

/// The callback of [`Processor::process`](crate::Processor::process).
pub type Control<'a> = dyn FnMut(Stage) -> ControlFlow<Stop> + 'a;

/// Asks the callback whether to go on.
pub(crate) fn ask(control: &mut Control<'_>, stage: Stage) -> Result<(), PipelineError> {
    match control(stage) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(stop) => Err(stop.into()),
    }
}

/// Input handed out between two questions to the callback: packed pixels unpack to at most a thousand times as many bytes, so this is
/// some 20 ms of work.
const BYTES_BETWEEN: usize = 16 << 10;

/// Lets a decoder that knows nothing of the callback be stopped by it: the decoder's next read fails.
pub(crate) struct Watch<'c> {
    control: RefCell<&'c mut Control<'c>>,
    stopped: Cell<Option<Stop>>,
}

impl<'c> Watch<'c> {
    pub(crate) fn new(control: &'c mut Control<'c>) -> Self {
        Self { control: RefCell::new(control), stopped: Cell::new(None) }
    }

    /// A reader of `bytes` that fails once the callback says so.
    pub(crate) fn reader<'a>(&'a self, bytes: &'a [u8]) -> WatchedReader<'a, 'c> {
        WatchedReader { bytes, at: 0, unasked: 0, watch: self }
    }

    /// What a decoder made, or the callback's word, where the decoder was stopped: it may have called that damage, and salvaged.
    pub(crate) fn verdict<T>(&self, outcome: Result<T, PipelineError>) -> Result<T, PipelineError> {
        match self.stopped.get() {
            None => outcome,
            Some(stop) => Err(stop.into()),
        }
    }

    /// Asks the callback whether to go on, for whoever works between two reads.
    pub(crate) fn ask(&self, stage: Stage) -> Result<(), PipelineError> {
        if self.stopped.get().is_none()
            && let ControlFlow::Break(stop) = (self.control.borrow_mut())(stage)
        {
            self.stopped.set(Some(stop));
        }
        self.verdict(Ok(()))
    }
}

/// Bytes in memory as a reader; see [`Watch`].
pub(crate) struct WatchedReader<'a, 'c> {
    bytes: &'a [u8],
    at: usize,
    /// Bytes that may still be read before the next question.
    unasked: usize,
    watch: &'a Watch<'c>,
}

impl BufRead for WatchedReader<'_, '_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.unasked == 0 {
            self.watch.ask(Stage::Decoding).map_err(io::Error::other)?;
            self.unasked = BYTES_BETWEEN;
        }
        let rest = &self.bytes[self.at.min(self.bytes.len())..];
        Ok(&rest[..rest.len().min(self.unasked)])
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount;
        self.unasked = self.unasked.saturating_sub(amount);
    }
}

impl Read for WatchedReader<'_, '_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let ready = self.fill_buf()?;
        let length = ready.len().min(out.len());
        out[..length].copy_from_slice(&ready[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl Seek for WatchedReader<'_, '_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (base, offset) = match to {
            SeekFrom::Start(at) => (0, i64::try_from(at).unwrap_or(i64::MAX)),
            SeekFrom::End(offset) => (self.bytes.len() as i64, offset),
            SeekFrom::Current(offset) => (self.at as i64, offset),
        };
        let at = base.checked_add(offset).and_then(|at| usize::try_from(at).ok());
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watched_reader_reads_what_a_cursor_reads() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|index| (index % 251) as u8).collect();
        let mut control = |_| ControlFlow::Continue(());
        let watch = Watch::new(&mut control);
        let (mut ours, mut theirs) = (watch.reader(&bytes), io::Cursor::new(&bytes));
        for to in [
            SeekFrom::Start(0),
            SeekFrom::Current(-77),
            SeekFrom::End(-50_000),
            SeekFrom::Start(200_000),
            SeekFrom::Start(3),
        ] {
            assert_eq!(ours.seek(to).ok(), theirs.seek(to).ok());
            let (mut a, mut b) = (vec![0; 40_000], vec![0; 40_000]);
            assert_eq!(ours.read_exact(&mut a).is_ok(), theirs.read_exact(&mut b).is_ok());
            assert_eq!(a.starts_with(&b[..10]), b.starts_with(&a[..10]));
        }
        assert!(ours.seek(SeekFrom::Current(-1_000_000)).is_err());
        let (mut a, mut b) = (Vec::new(), Vec::new());
        ours.seek(SeekFrom::Start(1)).unwrap();
        theirs.seek(SeekFrom::Start(1)).unwrap();
        ours.read_to_end(&mut a).unwrap();
        theirs.read_to_end(&mut b).unwrap();
        assert!(a == b);
    }

    #[test]
    fn the_callback_is_asked_again_and_again_and_obeyed_for_good() {
        let bytes = [0; 100_000];
        let mut asked = 0;
        let mut control = |_| {
            asked += 1;
            if asked == 4 { ControlFlow::Break(Stop::TimedOut) } else { ControlFlow::Continue(()) }
        };
        let watch = Watch::new(&mut control);
        let mut reader = watch.reader(&bytes);
        assert!(reader.read_to_end(&mut Vec::new()).is_err());
        assert!(reader.seek(SeekFrom::Start(0)).is_ok() && reader.fill_buf().is_err());
        assert_eq!(watch.verdict(Ok(())).unwrap_err().code(), "decode_timeout");
        assert_eq!(asked, 4);
    }
}
