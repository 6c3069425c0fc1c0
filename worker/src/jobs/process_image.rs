//! `process_image`: original in, variants out, outcome into the dream's record.

use super::Failure;
use crate::{ConvertError, Converted, Converter, PoolError, Shared, shared::report};
use apalis_core::{error::BoxDynError, task::data::Data};
use apalis_fred::JobContext;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use oneiro_core::{
    dreams::{Change, Dream, Image, ImageFailure, ImageResult, ImageState, StoreError, VariantRecord},
    jobs::ProcessImage,
    storage::StorageError,
};
use oneiro_pipeline::{Encoded, PIPELINE_VERSION, PipelineError, Processed};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// Variants of one image that are uploaded at once.
const UPLOADS_AT_ONCE: usize = 3;

/// Makes one image's variants and settles it. An image that failed for good settles too, and its job is kept among the dead ones, where
/// an operator sees it and may run it again.
pub(crate) async fn process_image(
    args: ProcessImage,
    shared: Data<Arc<Shared>>,
    job: JobContext,
) -> Result<(), BoxDynError> {
    let mut measured = Run { args: &args, job: &job, started: Instant::now(), outcome: None };
    let outcome = tokio::select! {
        outcome = run(&args, &shared, &job) => outcome,
        () = job.cancelled() => Err(Failure::Stopped),
    };
    let duration_ms = measured.millis();
    let (dream, image) = (args.dream_id.get(), args.image_id.get());
    match &outcome {
        Ok(()) => {
            tracing::info!(job.id = %job.id(), dream.id = dream, image.id = image, attempt = job.attempt(), duration_ms, "image settled");
        }
        Err(Failure::Stopped) => {
            tracing::info!(job.id = %job.id(), dream.id = dream, image.id = image, duration_ms, "image run stopped");
        }
        Err(error) => tracing::warn!(
            job.id = %job.id(), dream.id = dream, image.id = image, attempt = job.attempt(), duration_ms, %error, "image run failed"
        ),
    }
    measured.outcome = Some(match &outcome {
        Ok(()) => "completed",
        Err(Failure::Permanent { .. }) => "rejected",
        Err(Failure::Transient(..) | Failure::Unavailable(..)) => "failed",
        Err(Failure::Deferred(..)) => "deferred",
        Err(Failure::Stopped) => "stopped",
    });
    outcome.map_err(|failure| failure.into_error(job.attempt()))
}

/// A run, counted when it is over.
struct Run<'a> {
    args: &'a ProcessImage,
    job: &'a JobContext,
    started: Instant,
    /// None where nothing more is heard of it: it panicked, or was dropped as its time was over or its lease was lost.
    outcome: Option<&'static str>,
}

impl Run<'_> {
    fn millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        let outcome = self.outcome.unwrap_or_else(|| {
            tracing::warn!(
                job.id = %self.job.id(), dream.id = self.args.dream_id.get(), image.id = self.args.image_id.get(),
                attempt = self.job.attempt(), duration_ms = self.millis(), "image run was cut off"
            );
            "failed"
        });
        metrics::counter!("oneiro_image_runs_total", "outcome" => outcome).increment(1);
        metrics::histogram!("oneiro_image_run_seconds", "outcome" => outcome)
            .record(self.started.elapsed().as_secs_f64());
    }
}

async fn run(args: &ProcessImage, shared: &Shared, job: &JobContext) -> Result<(), Failure> {
    let (dream, image) = match load(args, shared).await? {
        Work::ToDo(work) => *work,
        Work::Done => return Ok(()),
        Work::Gone => return remove_variants(shared, args).await,
    };
    let made = make(shared, job, &dream, &image).await;
    match made {
        Ok(result) => settle(shared, args, ImageState::Completed(result)).await,
        Err(failure) => {
            let verdict = match &failure {
                Failure::Permanent { code, detail } => {
                    Some(ImageFailure { code: code.clone(), detail: detail.clone() })
                }
                // Nobody comes after this attempt, so this one tells the dream.
                Failure::Transient(..) | Failure::Unavailable(..) if job.is_last_attempt() => Some(ImageFailure {
                    code: "processing_failed".to_owned(),
                    detail: "the image could not be processed in several attempts; please try again later".to_owned(),
                }),
                Failure::Transient(..) | Failure::Unavailable(..) | Failure::Deferred(..) | Failure::Stopped => None,
            };
            if let Some(verdict) = verdict {
                settle(shared, args, ImageState::Failed(verdict)).await?;
            }
            Err(failure)
        }
    }
}

/// What there is to do.
enum Work {
    ToDo(Box<(Dream, Image)>),
    /// It has its variants, or was retried since.
    Done,
    /// The image was deleted or is about to be, perhaps while an earlier run was storing variants of it.
    Gone,
}

async fn load(args: &ProcessImage, shared: &Shared) -> Result<Work, Failure> {
    let dream = match shared.dreams.load(args.dream_id).await {
        Ok(dream) => dream,
        Err(error @ StoreError::Corrupt { .. }) => {
            return Err(Failure::Permanent { code: "unreadable_record".to_owned(), detail: report(&error) });
        }
        Err(error) => return Err(Failure::unavailable("cannot read the dream's record", error)),
    };
    let Some(dream) = dream.filter(|dream| !dream.is_leaving(args.image_id)) else { return Ok(Work::Gone) };
    let Some(image) = dream.image(args.image_id).cloned() else { return Ok(Work::Gone) };
    let is_settled = matches!(image.state, ImageState::Completed(_));
    if image.generation != args.generation || is_settled {
        Ok(Work::Done)
    } else {
        Ok(Work::ToDo(Box::new((dream, image))))
    }
}

async fn make(shared: &Shared, job: &JobContext, dream: &Dream, image: &Image) -> Result<ImageResult, Failure> {
    // Before it is read: images that wait for their turn are not to fill the memory.
    let size = image.original.bytes.min(shared.max_file_bytes);
    let mut reserved = shared.pool.reserve(size).await.map_err(|error| judge(error, job))?;
    let original =
        shared.in_time(shared.storage.read(&image.original.key, shared.max_file_bytes)).await.map_err(|error| {
            match error {
                StorageError::NotFound(_) => Failure::Permanent {
                    code: "original_missing".to_owned(),
                    detail: "the uploaded file is gone from the storage".to_owned(),
                },
                StorageError::TooLarge { .. } => {
                    Failure::Permanent { code: "file_too_large".to_owned(), detail: error.to_string() }
                }
                error => Failure::unavailable("cannot read the original", error),
            }
        })?;
    let converted = convert(shared, &original, reserved.waited()).await?;
    reserved.add_wait(converted.as_ref().map_or(Duration::ZERO, |converted| converted.waited));
    let bytes = converted.as_ref().map_or(original, |converted| converted.bytes.clone());
    let processed = shared.pool.process_reserved(bytes, reserved).await.map_err(|error| judge(error, job))?;
    drop(converted);
    upload(shared, job, dream, image, processed).await
}

/// The file as one that the pipeline decodes, where it is not and a converter is configured.
async fn convert(shared: &Shared, original: &Bytes, waited: Duration) -> Result<Option<Converted>, Failure> {
    let Some(converter) = shared.converter.as_ref().filter(|_| Converter::is_for(original)) else {
        return Ok(None);
    };
    converter.convert(original, waited).await.map(Some).map_err(|error| match error {
        ConvertError::Start(_) => Failure::unavailable("cannot convert the original", error),
        ConvertError::Busy => Failure::Deferred(error.to_string()),
        error => Failure::Permanent { code: "converter_failed".to_owned(), detail: capitalised(&error.to_string()) },
    })
}

/// What the pipeline's error means for the job.
fn judge(error: PoolError, job: &JobContext) -> Failure {
    match error {
        PoolError::Pipeline(PipelineError::Cancelled) | PoolError::Closed => Failure::Stopped,
        PoolError::Pipeline(error) if error.is_permanent() => {
            Failure::Permanent { code: error.code().to_owned(), detail: capitalised(&error.to_string()) }
        }
        PoolError::Refused { code, detail, is_permanent: true } => {
            Failure::Permanent { code, detail: capitalised(&detail) }
        }
        // The image never ran: it waits somewhere else, or later.
        PoolError::Busy => Failure::Deferred(error.to_string()),
        PoolError::TimedOut => permanent("decode_timeout", &error),
        PoolError::MemoryLimit => permanent("memory_limit", &error),
        PoolError::Crashed(_) => Failure::Permanent {
            code: "decoder_crashed".to_owned(),
            detail: "The image makes its decoder crash.".to_owned(),
        },
        // A codec that panics on these bytes will do so again; the second run only makes sure that it was not the machine. The same
        // goes for a process that was killed: by an operator, or for want of memory that another job had taken.
        PoolError::Panicked if job.attempt() > 1 => Failure::Permanent {
            code: "codec_failed".to_owned(),
            detail: "The image makes its decoder fail.".to_owned(),
        },
        PoolError::Killed if job.attempt() > 1 => Failure::Permanent {
            code: "decoder_crashed".to_owned(),
            detail: "The image makes its decoder be killed.".to_owned(),
        },
        // The machine lacks something: images are not to fail for it, and the others' jobs go elsewhere meanwhile.
        PoolError::Start(_) => Failure::unavailable("cannot process the image", error),
        error => Failure::Transient(format!("cannot process the image: {}", report(&error)), Box::new(error)),
    }
}

fn permanent(code: &str, error: &PoolError) -> Failure {
    Failure::Permanent { code: code.to_owned(), detail: capitalised(&error.to_string()) }
}

fn capitalised(sentence: &str) -> String {
    let mut chars = sentence.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).chain(['.']).collect()).unwrap_or_default()
}

/// Stores every variant under a key that depends on the image and the settings only: a second run overwrites with the same bytes.
async fn upload(
    shared: &Shared,
    job: &JobContext,
    dream: &Dream,
    image: &Image,
    processed: Processed,
) -> Result<ImageResult, Failure> {
    let total = processed.variants.len() as u64;
    let folder = format!("{}/{PIPELINE_VERSION}-{}", image.media_prefix(), shared.pool.settings().fingerprint());
    let mut uploads = stream::iter(processed.variants)
        .map(|variant| store(shared, format!("{folder}/{}.{}", variant.name, extension(&variant)), variant))
        .buffer_unordered(UPLOADS_AT_ONCE);
    let mut variants = BTreeMap::new();
    while let Some((name, record)) = uploads.try_next().await? {
        variants.insert(name, record);
        tell_progress(shared, job, dream, image, variants.len() as u64, total).await;
    }
    Ok(ImageResult {
        width: processed.header.width,
        height: processed.header.height,
        placeholder: processed.placeholder,
        dominant_color: processed.dominant_color,
        perceptual_hash: format!("{:016x}", processed.perceptual_hash),
        default_variant: shared.default_variant.clone(),
        variants,
    })
}

async fn store(shared: &Shared, key: String, variant: Encoded) -> Result<(String, VariantRecord), Failure> {
    let record = VariantRecord {
        key: key.clone(),
        width: variant.width,
        height: variant.height,
        bytes: variant.bytes.len() as u64,
        format: word(&variant),
    };
    let stored = shared.storage.put_variant(&key, Bytes::from(variant.bytes), variant.format.mime());
    shared.in_time(stored).await.map_err(|error| Failure::unavailable("cannot store a variant", error))?;
    metrics::counter!("oneiro_variant_bytes_total").increment(record.bytes);
    Ok((variant.name, record))
}

fn word(variant: &Encoded) -> String {
    variant.format.mime().trim_start_matches("image/").to_owned()
}

fn extension(variant: &Encoded) -> String {
    let word = word(variant);
    if word == "jpeg" { "jpg".to_owned() } else { word }
}

/// For those who asked to see it; nobody depends on it, so a failure is only noted.
async fn tell_progress(shared: &Shared, job: &JobContext, dream: &Dream, image: &Image, done: u64, total: u64) {
    let event = serde_json::json!({
        "type": "image_progress", "dream_id": dream.id, "image_id": image.id, "done": done, "total": total,
    });
    let (told, noted) =
        tokio::join!(shared.dreams.publish_transient(dream.id, &event), job.progress(done, total, "variants stored"));
    if told.is_err() || noted.is_err() {
        tracing::debug!(job.id = %job.id(), "progress could not be told");
    }
}

async fn settle(shared: &Shared, args: &ProcessImage, state: ImageState) -> Result<(), Failure> {
    let settled = shared.dreams.change(args.dream_id, |dream| {
        match dream.settle(args.image_id, args.generation, state.clone()) {
            None => Change::Keep(dream.is_leaving(args.image_id)),
            Some(false) => Change::Save(false),
            Some(true) => Change::Announce(false),
        }
    });
    match settled.await {
        Ok((_, is_gone)) if is_gone => remove_variants(shared, args).await,
        Ok(_) => Ok(()),
        // The tombstone has expired: gone as well.
        Err(StoreError::NotFound(_)) => remove_variants(shared, args).await,
        Err(error) => Err(Failure::unavailable("cannot write the image's outcome", error)),
    }
}

/// The image was deleted while it was worked on, and its delete job may have run before the uploads.
async fn remove_variants(shared: &Shared, args: &ProcessImage) -> Result<(), Failure> {
    if args.media_prefix.is_empty() {
        return Ok(());
    }
    let removed = shared.storage.delete_prefix(&args.media_prefix).await;
    removed.map(drop).map_err(|error| Failure::unavailable("cannot remove a deleted image's variants", error))
}
