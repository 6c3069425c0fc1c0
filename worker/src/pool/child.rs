//! `worker pipeline-child`: the process that a worker decodes in. It gives up what it does not need before it sees an image: it can open
//! no file and no socket, write no file, and start no process; what it inherited is its pipes, and an empty environment.

use super::{
    ready::is_readable,
    threads::{REST_AFTER, deadline},
    wire::{ANSWER, Answer, DECODED, READY, Setup},
};
use oneiro_pipeline::{Processed, Processor, Stage};
use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    time::{ClockId, clock_gettime},
};
use std::{
    io::{self, ErrorKind, Read, Write},
    os::fd::AsFd,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::Duration,
};

/// Works on what comes in until there is no more.
pub(crate) fn main() -> ExitCode {
    match serve(&mut io::stdin().lock(), &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The worker reads this when it finds its child gone.
            #[expect(clippy::print_stderr, reason = "the child has no other log")]
            {
                eprintln!("pipeline-child: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

fn serve(input: &mut (impl Read + AsFd), output: &mut impl Write) -> io::Result<()> {
    let setup = read_setup(input)?;
    give_up_rights(setup.memory_bytes)?;
    // A panic is answered; its text would fill the pipe that nobody reads while the child lives.
    std::panic::set_hook(Box::new(|_| {}));
    output.write_all(&[READY])?;
    output.flush()?;
    let decode = Duration::from_millis(setup.decode_ms);
    let mut processor = Processor::new(setup.settings.clone());
    loop {
        // Nothing of the next image is read already: it is sent when the last is answered.
        if !is_readable(input.as_fd(), REST_AFTER) {
            processor.rest();
        }
        let mut length = [0; 8];
        match input.read_exact(&mut length) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
        let length = u64::from_le_bytes(length);
        // The limit on a file's size was checked by the worker. Given back after each: the next is not to keep room for the largest.
        let mut bytes = Vec::with_capacity(length as usize);
        if input.take(length).read_to_end(&mut bytes)? as u64 != length {
            return Ok(());
        }
        allow_cpu(setup.cpu_seconds)?;
        let answer = answer(&mut processor, &bytes, decode, output);
        send(output, answer)?;
    }
}

fn read_setup(input: &mut impl Read) -> io::Result<Setup> {
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    let mut json = vec![0; u32::from_le_bytes(length) as usize];
    input.read_exact(&mut json)?;
    let mut setup: Setup = serde_json::from_slice(&json)?;
    if let (Some(length), Some(watermark)) = (setup.watermark_bytes, &mut setup.settings.watermark) {
        let mut file = Vec::new();
        input.take(length).read_to_end(&mut file)?;
        watermark.image = Some(file.into());
    }
    Ok(setup)
}

fn answer(processor: &mut Processor, bytes: &[u8], decode: Duration, output: &mut impl Write) -> Answer {
    let mut late = deadline(decode);
    let mut control = |stage| {
        if stage == Stage::Decoded {
            // Where the worker is gone, the answer will find out as well.
            drop(output.write_all(&[DECODED]).and_then(|()| output.flush()));
        }
        late(stage)
    };
    match catch_unwind(AssertUnwindSafe(|| processor.process(bytes, &mut control))) {
        Ok(Ok(processed)) => {
            let sizes = processed.variants.iter().map(|variant| variant.bytes.len() as u64).collect();
            Answer::Processed { processed, sizes }
        }
        Ok(Err(error)) => Answer::refused(&error),
        Err(_) => {
            *processor = Processor::new(processor.settings().clone());
            Answer::Panicked
        }
    }
}

fn send(output: &mut impl Write, answer: Answer) -> io::Result<()> {
    let json = serde_json::to_vec(&answer)?;
    output.write_all(&[ANSWER])?;
    output.write_all(&(json.len() as u32).to_le_bytes())?;
    output.write_all(&json)?;
    if let Answer::Processed { processed: Processed { variants, .. }, .. } = &answer {
        variants.iter().try_for_each(|variant| output.write_all(&variant.bytes))?;
    }
    output.flush()
}

fn give_up_rights(memory_bytes: u64) -> io::Result<()> {
    let limit = |resource, most| setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) });
    limit(Resource::Core, 0)?;
    limit(Resource::Fsize, 0)?;
    // The pipes stay open, and nothing else can be opened: no file, socket or device, even in the place of a pipe that is closed.
    limit(Resource::Nofile, 0)?;
    #[cfg(target_os = "linux")]
    {
        // Root is exempt from this one.
        limit(Resource::Nproc, 0)?;
        rustix::thread::set_no_new_privs(true)?;
    }
    limit(Resource::As, memory_bytes)?;
    Ok(())
}

/// Lets this process use `seconds` more of CPU time, then SIGXCPU ends it. The system counts from the process's start, so the limit moves.
fn allow_cpu(seconds: u64) -> io::Result<()> {
    let used = clock_gettime(ClockId::ProcessCPUTime).tv_sec as u64;
    let most = used + 1 + seconds;
    let maximum = getrlimit(Resource::Cpu).maximum;
    let current = Some(maximum.map_or(most, |maximum| maximum.min(most)));
    Ok(setrlimit(Resource::Cpu, Rlimit { current, maximum })?)
}
