//! The system's limit of open files: a process with a thousand tables needs more than a shell's usual 1,024.

/// Files of a table: its index's lock, log and some runs, and a file that is being written.
const FILES_A_TABLE: u64 = 6;
/// Of the process itself: connections to brokers, catalog and storage.
const OTHER_FILES: u64 = 256;

/// Raises the soft limit to the hard one. Where that is refused it stays as it is.
#[allow(unsafe_code)] // the standard library has no call for it
pub fn raise_limit() {
    let Some(limit) = limit() else { return };
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
    if limit.rlim_cur < limit.rlim_max {
        // SAFETY: reads a plain struct that outlives the call.
        let refused = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) } != 0;
        if refused {
            tracing::debug!("the limit of open files stays at {}: {}", limit.rlim_cur, std::io::Error::last_os_error());
        }
    }
}

/// Why so many tables are too many for the limit, where they may be.
pub fn shortage(tables: usize) -> Option<String> {
    let limit = limit()?.rlim_cur;
    let needed = needed(tables);
    (needed > limit).then(|| {
        format!(
            "{tables} tables may need {needed} open files, and the system allows {limit}: raise the limit (`ulimit -n {needed}`, \
             LimitNOFILE={needed} of a systemd unit, --ulimit nofile={needed} of a container)"
        )
    })
}

fn needed(tables: usize) -> u64 {
    tables as u64 * FILES_A_TABLE + OTHER_FILES
}

#[allow(unsafe_code)] // the standard library has no call for it
fn limit() -> Option<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills a plain struct that outlives the call.
    let answered = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0;
    answered.then_some(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_and_what_is_beyond_it_is_told() {
        raise_limit();
        let now = limit().unwrap();
        assert_eq!(now.rlim_cur, now.rlim_max);
        assert_eq!(shortage(1), None);
        let most = usize::try_from(now.rlim_cur / FILES_A_TABLE + 1).unwrap();
        assert!(shortage(most).unwrap().contains("ulimit -n"));
    }
}
