//! Programs that do not outlive the worker, however it ends.
#![expect(unsafe_code, reason = "what a program does between fork and exec cannot be said in safe code")]

use tokio::process::Command;

/// Has the system kill the program once the worker is gone, which a worker that was itself killed cannot do any more. Linux only, and of what
/// the program has started in turn nothing is killed.
///
/// The system looks at the thread that starts the program: it must be one that lives as long as the worker, as the runtime's own do.
pub(crate) fn ends_with_worker(command: &mut Command) {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
        let worker = getpid();
        let kill_me = move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // It may have gone a moment ago, and would not be noticed any more.
            if getppid() == Some(worker) { Ok(()) } else { Err(std::io::ErrorKind::NotFound.into()) }
        };
        // SAFETY: two system calls, without memory or locks, which is all that is allowed in a copy of a process with several threads.
        unsafe { command.pre_exec(kill_me) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = command;
}
