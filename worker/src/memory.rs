//! How large blocks of memory go back to the system.
#![expect(unsafe_code, reason = "the C library's allocator is set by a call that no crate wraps")]

/// Has blocks of 1 MB and more handed out by the system one by one, and given back as soon as they are freed.
///
/// By itself glibc learns, from the first large block that is freed, to keep such blocks in the heap of the thread that asked for them:
/// every thread that has ever read an original would then keep room for one or more. Other C libraries need no telling. To be called
/// before the first thread is started.
pub(crate) fn return_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for parameter in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        const LARGE: libc::c_int = 1 << 20;
        // SAFETY: takes two numbers; there is no other thread yet.
        unsafe { libc::mallopt(parameter, LARGE) };
    }
}
