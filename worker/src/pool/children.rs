//! Processes that images are decoded in: whatever a file does to a codec, it does to a process that has nothing and can be replaced.
//!
//! Each is this worker's own program again, so that both are of one version also while a deployment replaces the file. A child serves one
//! image after another; one that is idle waits in a list, one that fails is never used again.

use super::{
    Isolation, PoolError,
    plausible::{Known, begins_as},
    wire::{ANSWER, Answer, DECODED, MAX_ANSWER_BYTES, MAX_VARIANTS_BYTES, READY, Setup},
};
use crate::orphan;
use oneiro_pipeline::{Processed, Settings};
use parking_lot::Mutex;
use rustix::process::Signal;
use std::{io, os::unix::process::ExitStatusExt, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

/// A child keeps the decode limit by itself where it can, which saves a new one: it gets so much longer before it is killed.
const DECODE_GRACE: Duration = Duration::from_secs(1);
/// A child sets itself up in milliseconds; on a machine that is busy beyond reason it may take longer.
const SET_UP: Duration = Duration::from_secs(30);
/// A child whose pipes are closed is about to end.
const LAST_BREATH: Duration = Duration::from_secs(2);
/// How much of a dead child's last words is read.
const LAST_WORDS_BYTES: u64 = 4096;

pub(super) struct Children {
    isolation: Isolation,
    /// Settings and limits, as the child reads them.
    setup: Vec<u8>,
    decode: Duration,
    idle: Mutex<Vec<Place>>,
}

impl Children {
    pub(super) fn new(settings: &Settings, decode: Duration, isolation: Isolation) -> Self {
        let watermark = settings.watermark.as_ref().and_then(|watermark| watermark.image.clone());
        let json = serde_json::to_vec(&Setup {
            settings: settings.clone(),
            watermark_bytes: watermark.as_ref().map(|image| image.len() as u64),
            memory_bytes: isolation.memory_mb << 20,
            cpu_seconds: isolation.cpu_seconds,
            decode_ms: u64::try_from(decode.as_millis()).unwrap_or(u64::MAX),
        })
        .expect("settings are plain data with text keys");
        let mut setup = (json.len() as u32).to_le_bytes().to_vec();
        setup.extend(json);
        setup.extend(watermark.as_deref().unwrap_or_default());
        Self { isolation, setup, decode, idle: Mutex::default() }
    }

    /// Works on an image of which so much is known.
    ///
    /// # Cancel safety
    /// Dropped, the child is killed: it would go on with an image that nobody waits for.
    pub(super) async fn process(&self, bytes: &[u8], known: &Known<'_>) -> Result<Processed, PoolError> {
        let mut place = match self.take_idle() {
            Some(place) => place,
            None => self.start().await?,
        };
        let broken = match place.work(bytes, self.decode, known).await {
            Ok(answer) => {
                self.idle.lock().push(place);
                return match answer {
                    Answer::Processed { processed, .. } => Ok(processed),
                    Answer::Refused { code, detail, is_permanent } => {
                        Err(PoolError::Refused { code, detail, is_permanent })
                    }
                    Answer::Panicked => Err(PoolError::Panicked),
                };
            }
            Err(broken) => broken,
        };
        let error = place.end(broken).await;
        metrics::counter!("oneiro_pipeline_children_lost_total").increment(1);
        tracing::warn!(%error, image_bytes = bytes.len(), "the process that decoded an image was lost");
        Err(error)
    }

    /// An idle child that lives: the system may have ended one that did nothing.
    fn take_idle(&self) -> Option<Place> {
        let mut idle = self.idle.lock();
        loop {
            let mut place = idle.pop()?;
            if matches!(place.child.try_wait(), Ok(None)) {
                return Some(place);
            }
        }
    }

    async fn start(&self) -> Result<Place, PoolError> {
        let mut command = Command::new(&self.isolation.program);
        command.arg("pipeline-child").env_clear().current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-C in a terminal goes to the whole group, and the worker finishes its images first.
        command.process_group(0).kill_on_drop(true);
        orphan::ends_with_worker(&mut command);
        let mut child = command.spawn().map_err(PoolError::Start)?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(PoolError::Start(io::Error::other("the child has no pipes")));
        };
        let mut place = Place { child, input, output: BufReader::new(output) };
        let ready = timeout(SET_UP, async {
            place.input.write_all(&self.setup).await?;
            place.output.read_u8().await
        });
        match ready.await {
            Ok(Ok(READY)) => Ok(place),
            Ok(Ok(_)) => Err(PoolError::Start(io::Error::other("it answered with an unknown word"))),
            // It saw no image yet, so no image is to blame.
            Ok(Err(_)) => {
                let why = match place.end(Broken::Gone).await {
                    PoolError::Crashed(why) => why,
                    other => other.to_string(),
                };
                Err(PoolError::Start(io::Error::other(why)))
            }
            Err(_) => Err(PoolError::Start(io::Error::other("it does not come to its first word"))),
        }
    }

    /// Starts a child, which then waits for the first image.
    pub(super) async fn check(&self) -> Result<(), PoolError> {
        let place = self.start().await?;
        self.idle.lock().push(place);
        Ok(())
    }
}

/// A child and the ends of its pipes.
struct Place {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// Why a child cannot be used again.
enum Broken {
    /// It did not decode the image in time.
    Late,
    /// It does not keep to the protocol.
    Nonsense(&'static str),
    /// Its pipes are closed.
    Gone,
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

impl Place {
    async fn work(&mut self, bytes: &[u8], decode: Duration, known: &Known<'_>) -> Result<Answer, Broken> {
        let first = timeout(decode + DECODE_GRACE, async {
            self.input.write_all(&(bytes.len() as u64).to_le_bytes()).await?;
            self.input.write_all(bytes).await?;
            self.output.read_u8().await
        });
        let word = match first.await.map_err(|_| Broken::Late)?? {
            // What follows has the job's own time limit, and the child's limit of CPU time.
            DECODED => self.output.read_u8().await?,
            word => word,
        };
        if word != ANSWER {
            return Err(Broken::Nonsense("an unknown word"));
        }
        read_answer(&mut self.output, known).await
    }

    /// Ends the child, and tells what it died of.
    async fn end(mut self, broken: Broken) -> PoolError {
        match broken {
            Broken::Late => return PoolError::TimedOut,
            Broken::Nonsense(what) => return PoolError::Crashed(format!("it answered with {what}")),
            Broken::Gone => {}
        }
        drop(self.input);
        let Ok(Ok(status)) = timeout(LAST_BREATH, self.child.wait()).await else {
            return PoolError::Crashed("it closed its pipes".to_owned());
        };
        let mut words = Vec::new();
        if let Some(stderr) = self.child.stderr.take() {
            // What can be read is told; a broken pipe has nothing to tell.
            drop(timeout(LAST_BREATH, stderr.take(LAST_WORDS_BYTES).read_to_end(&mut words)).await);
        }
        let words = String::from_utf8_lossy(&words);
        match status.signal() {
            Some(number) if number == Signal::KILL.as_raw() || number == Signal::TERM.as_raw() => PoolError::Killed,
            Some(number) if number == Signal::XCPU.as_raw() => PoolError::TimedOut,
            // The standard library's only sign, on a stable compiler, of an allocation that failed.
            Some(number) if number == Signal::ABORT.as_raw() && words.contains("memory allocation of") => {
                PoolError::MemoryLimit
            }
            _ => PoolError::Crashed(match words.trim() {
                "" => status.to_string(),
                words => format!("{status}: {words}"),
            }),
        }
    }
}

async fn read_answer(output: &mut (impl AsyncRead + Unpin), known: &Known<'_>) -> Result<Answer, Broken> {
    let length = output.read_u32_le().await?;
    if length > MAX_ANSWER_BYTES {
        return Err(Broken::Nonsense("too long an answer"));
    }
    let mut json = vec![0; length as usize];
    output.read_exact(&mut json).await?;
    let mut answer: Answer = serde_json::from_slice(&json).map_err(|_| Broken::Nonsense("an unreadable answer"))?;
    if !known.allows(&answer) {
        return Err(Broken::Nonsense("something else than what it was asked"));
    }
    if let Answer::Processed { processed, sizes } = &mut answer {
        let total = sizes.iter().try_fold(0_u64, |sum, size| sum.checked_add(*size));
        if total.is_none_or(|total| total > MAX_VARIANTS_BYTES) {
            return Err(Broken::Nonsense("impossible sizes"));
        }
        for (variant, size) in processed.variants.iter_mut().zip(sizes) {
            variant.bytes.reserve_exact(*size as usize);
            if output.take(*size).read_to_end(&mut variant.bytes).await? as u64 != *size {
                return Err(Broken::Gone);
            }
            if !begins_as(variant.format, &variant.bytes) {
                return Err(Broken::Nonsense("a file of another format"));
            }
        }
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::ONE_PIXEL;
    use oneiro_pipeline::{Processor, Target, VariantSpec};
    use std::ops::ControlFlow;

    async fn read(bytes: &[u8], known: &Known<'_>) -> &'static str {
        match read_answer(&mut &*bytes, known).await {
            Ok(_) => "an answer",
            Err(Broken::Nonsense(what)) => what,
            Err(Broken::Gone) => "the end",
            Err(Broken::Late) => "lateness",
        }
    }

    fn framed(json: &str, files: &[u8]) -> Vec<u8> {
        [&(json.len() as u32).to_le_bytes(), json.as_bytes(), files].concat()
    }

    #[tokio::test]
    async fn a_child_is_believed_nothing() {
        const OTHER: &str = "something else than what it was asked";
        let mut settings = Settings::default();
        settings.variants = vec![VariantSpec::new("v", Target::LongEdge(1))];
        let processed =
            Processor::new(settings.clone()).process(ONE_PIXEL, &mut |_| ControlFlow::Continue(())).unwrap();
        let header = processed.header.clone();
        let known = Known { settings: &settings, header: &header };
        let file = processed.variants[0].bytes.clone();
        let honest = serde_json::to_string(&Answer::Processed { sizes: vec![file.len() as u64], processed }).unwrap();

        assert_eq!(read(&framed(&honest, &file), &known).await, "an answer");
        assert_eq!(read(&framed(&honest, &file[1..]), &known).await, "the end");
        assert_eq!(read(&framed(&honest, &vec![b'<'; file.len()]), &known).await, "a file of another format");
        assert_eq!(read(&framed(r#""Panicked""#, &[]), &known).await, "an answer");
        assert_eq!(read(&framed(r#""Panicked""#, &[])[..6], &known).await, "the end");
        assert_eq!(read(&[0xff; 64], &known).await, "too long an answer");
        assert_eq!(read(&framed("{}", &[]), &known).await, "an unreadable answer");
        let size = format!("\"sizes\":[{}]", file.len());
        for (honest_part, lie) in [
            (size.as_str(), "\"sizes\":[]"),
            (size.as_str(), "\"sizes\":[600000000]"),
            (size.as_str(), "\"sizes\":[18446744073709551615]"),
            (r#""name":"v""#, r#""name":"../../v""#),
            (r#""name":"v","format":"jpeg""#, r#""name":"v","format":"png""#),
            (r#""frames":1}]"#, r#""frames":4000000000}]"#),
            (r#""frames":1}]"#, r#""frames":2}]"#),
            (r##""dominant_color":"#"##, r#""dominant_color":"<"#),
            (r#""placeholder":""#, r#""placeholder":"<script>"#),
            (r#""orientation":1"#, r#""orientation":2"#),
        ] {
            let answer = honest.replacen(honest_part, lie, 1);
            assert_ne!(answer, honest, "{honest_part} is in {honest}");
            assert_eq!(read(&framed(&answer, &file), &known).await, OTHER, "{lie}");
        }
        for (code, detail, verdict) in
            [("corrupt_image", "damaged", "an answer"), ("<b>", "damaged", OTHER), ("corrupt_image", "a\\nb", OTHER)]
        {
            let json = format!(r#"{{"Refused":{{"code":"{code}","detail":"{detail}","is_permanent":true}}}}"#);
            assert_eq!(read(&framed(&json, &[]), &known).await, verdict, "{json}");
        }
    }
}
