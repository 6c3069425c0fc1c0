//! Waiting for input for a limited time.
#![expect(
    unsafe_code,
    reason = "select has no safe wrapper, and the calls that have one are no use to a process that may have no files"
)]

use std::{
    mem,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
    time::Duration,
};

/// False where nothing can be read within `limit`. Where the system cannot tell, a read is left to.
///
/// poll(2) refuses to look at more descriptors than the process may open, which is none in a child.
pub(super) fn is_readable(input: BorrowedFd<'_>, limit: Duration) -> bool {
    let number = input.as_raw_fd();
    if number as usize >= libc::FD_SETSIZE {
        return true;
    }
    // SAFETY: the set is plain data, for which zero is valid and means empty; the number was just found to be within it; the pointers are to
    // live values, or null, which stands for no set.
    unsafe {
        let mut set: libc::fd_set = mem::zeroed();
        libc::FD_SET(number, &mut set);
        let mut time: libc::timeval = mem::zeroed();
        time.tv_sec = limit.as_secs() as libc::time_t;
        time.tv_usec = limit.subsec_micros() as libc::suseconds_t;
        libc::select(number + 1, &mut set, ptr::null_mut(), ptr::null_mut(), &mut time) != 0
    }
}
