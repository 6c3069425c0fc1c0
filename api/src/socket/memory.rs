//! Memory that a crowd leaves behind: what handshakes and farewells of many connections took and gave back, and the C library keeps.
#![expect(unsafe_code, reason = "the C library's allocator gives back by a call that no crate wraps")]

/// Connections that came or went; fewer leave little.
const CROWD: u64 = 1_000;
/// So many in a second, and the crowd is not over: it would only ask for the memory again.
const QUIET: u64 = 100;

/// Tells when a crowd is over. Asked once a second.
#[derive(Default)]
pub(super) struct CrowdWatch {
    /// Comings and goings when memory was given back last, and when asked last.
    given_back: u64,
    asked: u64,
}

impl CrowdWatch {
    /// `turnover`: how many connections have come, and how many have gone, since the process began.
    pub(super) fn is_over(&mut self, turnover: u64) -> bool {
        let is_quiet = turnover - self.asked <= QUIET;
        self.asked = turnover;
        let is_over = is_quiet && turnover - self.given_back >= CROWD;
        if is_over {
            self.given_back = turnover;
        }
        is_over
    }
}

/// Gives free memory back to the system: some milliseconds for each 100 MB in use, in which other threads may wait for the allocator. The GNU
/// C library keeps it unless told; others are left to themselves.
pub(super) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes a number, and may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_over_once_when_few_came_or_went_in_a_second() {
        let mut watch = CrowdWatch::default();
        let told: Vec<bool> = [0, 600, 1_200, 1_250, 1_260, 2_240, 2_249, 2_251, 9_000, 9_100]
            .map(|turnover| watch.is_over(turnover))
            .into();
        assert_eq!(told, [false, false, false, true, false, false, false, true, false, true]);
    }

    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn free_memory_goes_back_to_the_system() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
            let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a size");
            line.split_whitespace().nth(1).and_then(|kib| kib.parse::<i64>().ok()).expect("a number")
        };
        // 128 MB in blocks of 4 KB, of which one in a hundred stays: none of the pages at the end of the heap is free.
        let mut blocks: Vec<Option<Vec<u8>>> = (0..32_000).map(|_| Some(vec![1; 4_000])).collect();
        blocks.iter_mut().enumerate().filter(|(index, _)| index % 100 != 99).for_each(|(_, block)| *block = None);
        let before = resident();
        give_back();
        assert!(before - resident() > 64 * 1024, "{before} KiB, then {}", resident());
        assert_eq!(blocks.iter().flatten().count(), 320);
    }
}
