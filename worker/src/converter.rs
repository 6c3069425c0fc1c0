//! The hook for formats that the pipeline does not decode: an operator's own program makes a JPEG or PNG of them.
//!
//! The program is run as it is configured, without a shell, with nothing of the worker's environment and in a process group of its own, which
//! is killed when it is late, says too much, or nobody waits for it any more; on Linux the program also ends with the worker. What it gives is untrusted like any upload.

use crate::orphan;
use bytes::Bytes;
use oneiro_pipeline::{Format, sniff};
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    io,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::Command,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// Stands for the path of a file with the original in the program's arguments; without it, the original is given on standard input.
const INPUT: &str = "{input}";
/// The converter's environment: where it finds its own helpers.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How much of what it says on standard error is logged.
const WORDS_BYTES: u64 = 2048;

/// Why there is no converted file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// The program cannot be run: the configuration or the machine is at fault, not the file.
    #[error("cannot run worker.converter")]
    Start(#[source] io::Error),
    /// The program ended with an error.
    #[error("the converter for this format failed on the file")]
    Failed,
    /// Others ran for as long as it could wait for its turn: it did not run.
    #[error("no converter was free in time")]
    Busy,
    /// It took too long.
    #[error("the converter for this format took too long")]
    TimedOut,
    /// It gave more than allowed.
    #[error("the converter for this format gave more than the {0} bytes allowed")]
    TooLarge(u64),
    /// It gave something else than JPEG or PNG.
    #[error("the converter for this format gave no JPEG or PNG")]
    NoImage,
}

/// A configured program; see `worker.converter`.
pub struct Converter {
    program: String,
    arguments: Vec<String>,
    time: Duration,
    wait: Duration,
    max_bytes: u64,
    places: Arc<Semaphore>,
}

/// What a program made of a file, and the place in which it ran. As long as it is kept, no other takes its place: so many files at most wait for
/// their turn, in which they count.
pub struct Converted {
    /// A JPEG or PNG.
    pub bytes: Bytes,
    /// How long the file waited for its turn.
    pub waited: Duration,
    _place: OwnedSemaphorePermit,
}

impl Converter {
    /// `command`: program and arguments. At most `at_once` (1 or more) run at the same time, each for at most `time` and with at most
    /// `max_bytes` of output; a file waits for its turn for `wait` at most. `None` where the command is empty.
    pub fn new(command: &[String], time: Duration, wait: Duration, max_bytes: u64, at_once: usize) -> Option<Self> {
        let (program, arguments) = command.split_first()?;
        let places = Arc::new(Semaphore::new(at_once));
        Some(Self { program: program.clone(), arguments: arguments.to_vec(), time, wait, max_bytes, places })
    }

    /// True where the file is of a known format that the pipeline itself does not decode. Programs and documents stay refused.
    pub fn is_for(bytes: &[u8]) -> bool {
        sniff(bytes).is_some_and(|format| !format.is_decodable() && !matches!(format, Format::Svg | Format::Pdf))
    }

    /// Runs the program on a file, which has `waited` for other things and waits the less for its turn.
    ///
    /// # Errors
    /// [`ConvertError`].
    ///
    /// # Cancel safety
    /// Dropped, the program and whatever it started are killed.
    pub async fn convert(&self, original: &Bytes, waited: Duration) -> Result<Converted, ConvertError> {
        let begun = Instant::now();
        let place = timeout(self.wait.saturating_sub(waited), self.places.clone().acquire_owned()).await;
        let place = place.map_err(|_| ConvertError::Busy)?;
        let waited = begun.elapsed();
        let place = place.map_err(|_| ConvertError::Start(io::ErrorKind::Interrupted.into()))?;
        match timeout(self.time, self.run(original)).await {
            Ok(result) => Ok(Converted { bytes: result?, waited, _place: place }),
            Err(_) => Err(ConvertError::TimedOut),
        }
    }

    async fn run(&self, original: &Bytes) -> Result<Bytes, ConvertError> {
        let is_file = self.arguments.iter().any(|argument| argument.contains(INPUT));
        let file = if is_file { Some(store(original.clone()).await.map_err(ConvertError::Start)?) } else { None };
        let path = file.as_ref().map(|file| file.path().to_string_lossy().into_owned()).unwrap_or_default();
        let mut command = Command::new(&self.program);
        command.args(self.arguments.iter().map(|argument| argument.replace(INPUT, &path)));
        command.env_clear().env("PATH", PATH).env("LANG", "C.UTF-8").process_group(0).kill_on_drop(true);
        orphan::ends_with_worker(&mut command);
        command.stdin(if is_file { Stdio::null() } else { Stdio::piped() });
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(ConvertError::Start)?;
        let mut group = Group(child.id().and_then(|id| Pid::from_raw(id as i32)));
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A program may stop reading once it knows enough, or fail: its output and its end say which.
                drop(stdin.write_all(original).await);
            }
            Ok(())
        };
        let read = async {
            let output = read_up_to(stdout, self.max_bytes).await.map_err(ConvertError::Start)?;
            let is_within = output.len() as u64 <= self.max_bytes;
            if is_within { Ok(output) } else { Err(ConvertError::TooLarge(self.max_bytes)) }
        };
        let (output, (), words) = tokio::try_join!(read, feed, async { Ok(last_words(stderr).await) })?;
        let status = child.wait().await.map_err(ConvertError::Start)?;
        group.0 = None;
        if !status.success() {
            tracing::warn!(%status, words, program = self.program, "the converter failed");
            return Err(ConvertError::Failed);
        }
        match sniff(&output) {
            Some(Format::Jpeg | Format::Png) => Ok(output.into()),
            _ => Err(ConvertError::NoImage),
        }
    }
}

/// The original as a file that goes when it is dropped.
async fn store(original: Bytes) -> io::Result<tempfile::NamedTempFile> {
    let written = tokio::task::spawn_blocking(move || {
        let mut file = tempfile::Builder::new().prefix("oneiro-").tempfile()?;
        io::Write::write_all(&mut file, &original)?;
        Ok(file)
    });
    written.await.map_err(io::Error::other)?
}

/// All that comes, or one byte more than `most`.
async fn read_up_to(from: Option<impl AsyncRead + Unpin>, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        from.take(most.saturating_add(1)).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// The beginning of what it says, for the log; the rest is read and forgotten, or it would wait for us.
async fn last_words(stderr: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stderr) = stderr else { return String::new() };
    let mut words = Vec::new();
    // Words that cannot be read are not worth the image.
    drop((&mut stderr).take(WORDS_BYTES).read_to_end(&mut words).await);
    drop(tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await);
    String::from_utf8_lossy(&words).trim().to_owned()
}

/// The program's process group, killed when dropped: what it started would otherwise outlive it.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // A group that is gone already is as good.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}
