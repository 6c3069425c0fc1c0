//! Measures the pipeline on files: CPU milliseconds an image, images a second, and peak memory of the process.
//!
//! ```text
//! bench JOB THREADS SECONDS OUT_DIR|- FILE...
//! ```
//! JOB: `jpeg3` or `webp3` (2048, 1024 and 320 px; `webp3-effort2` with effort 2 instead of 4), `thumb` (320 px JPEG), `png1` (1024 px
//! PNG), `avif1-quality75` (1024 px AVIF of that quality; needs the feature `avif`). With OUT_DIR the variants are written once
//! and nothing is measured. Prints one line of JSON. Linux only: times and memory are read from /proc.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use oneiro_pipeline::{Output, Processor, Settings, Target, VariantSpec};

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(line) => {
            #[expect(clippy::print_stdout, reason = "a command's result")]
            {
                println!("{line}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "a command's failure")]
            {
                eprintln!("bench: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<String, Failure> {
    let [job, threads, seconds, out, files @ ..] = arguments else {
        return Err("usage: bench JOB THREADS SECONDS OUT_DIR|- FILE...".into());
    };
    let inputs = files.iter().map(|file| Ok((file.as_str(), fs::read(file)?))).collect::<Result<Vec<_>, Failure>>()?;
    let settings = settings_for(job)?;
    if out != "-" {
        return write_variants(&settings, &inputs, Path::new(out));
    }
    measure(job, &settings, &inputs, threads.parse()?, seconds.parse()?)
}

fn settings_for(job: &str) -> Result<Settings, Failure> {
    let sized = |name: &str, edge| VariantSpec::new(name, Target::LongEdge(edge));
    let three = |format, quality| {
        [("2048", 2048), ("1024", 1024), ("320", 320)]
            .map(|(name, edge)| sized(name, edge).with_format(format).with_quality(quality))
            .to_vec()
    };
    let mut settings = Settings::default();
    settings.variants = match job {
        "jpeg3" => three(Output::Jpeg, 82),
        "webp3" => three(Output::WebP, 80),
        webp if webp.starts_with("webp3-effort") => {
            let effort = webp["webp3-effort".len()..].parse()?;
            let mut variants = three(Output::WebP, 80);
            variants.iter_mut().for_each(|variant| variant.effort = effort);
            variants
        }
        "thumb" => vec![sized("320", 320)],
        avif if avif.starts_with("avif1-quality") => {
            let quality = avif["avif1-quality".len()..].parse()?;
            vec![sized("1024", 1024).with_format(Output::Avif).with_quality(quality)]
        }
        "png1" => vec![sized("1024", 1024).with_format(Output::Png)],
        other => return Err(format!("unknown job {other:?}").into()),
    };
    settings.validate()?;
    Ok(settings)
}

fn write_variants(settings: &Settings, inputs: &[(&str, Vec<u8>)], out: &Path) -> Result<String, Failure> {
    fs::create_dir_all(out)?;
    let mut processor = Processor::new(settings.clone());
    for (file, bytes) in inputs {
        let stem = Path::new(file).file_stem().and_then(|stem| stem.to_str()).ok_or("a file without a name")?;
        for variant in processor.process(bytes, &mut |_| ControlFlow::Continue(()))?.variants {
            fs::write(out.join(format!("{stem}_{}.{}", variant.name, variant.format.extension())), variant.bytes)?;
        }
    }
    Ok(format!("{{\"written\": {}}}", inputs.len()))
}

fn measure(
    job: &str,
    settings: &Settings,
    inputs: &[(&str, Vec<u8>)],
    threads: usize,
    seconds: f64,
) -> Result<String, Failure> {
    let done = AtomicUsize::new(0);
    let (started, cpu_before) = (Instant::now(), cpu_seconds()?);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|offset| {
                let done = &done;
                scope.spawn(move || {
                    let mut processor = Processor::new(settings.clone());
                    for (_, bytes) in inputs.iter().cycle().skip(offset) {
                        if started.elapsed().as_secs_f64() >= seconds {
                            break;
                        }
                        processor.process(bytes, &mut |_| ControlFlow::Continue(()))?;
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok::<(), oneiro_pipeline::PipelineError>(())
                })
            })
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| "a worker panicked")?.map_err(Failure::from))
    })?;
    let (images, elapsed, cpu) =
        (done.into_inner() as f64, started.elapsed().as_secs_f64(), cpu_seconds()? - cpu_before);
    Ok(format!(
        "{{\"engine\": \"oneiro\", \"job\": \"{job}\", \"threads\": {threads}, \"images\": {images}, \"cpu_ms\": {:.2}, \
         \"images_per_s\": {:.2}, \"peak_mb\": {:.1}}}",
        cpu * 1000.0 / images,
        images / elapsed,
        peak_bytes()? as f64 / 1e6
    ))
}

/// User and system time of this process: fields 14 and 15 of proc(5)'s stat, in ticks of 10 ms.
fn cpu_seconds() -> Result<f64, Failure> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit_once(')').ok_or("an unreadable /proc/self/stat")?.1;
    let fields =
        after_name.split_whitespace().skip(11).take(2).map(str::parse::<f64>).collect::<Result<Vec<_>, _>>()?;
    Ok(fields.iter().sum::<f64>() / 100.0)
}

/// Highest resident size of this process.
fn peak_bytes() -> Result<u64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no peak in /proc/self/status")?;
    Ok(line.split_whitespace().next().ok_or("an empty peak")?.parse::<u64>()? * 1024)
}
