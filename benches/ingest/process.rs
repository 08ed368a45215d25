//! A child process and what the kernel says it used.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::Context;

/// CPU seconds that a running process has used, in user and system mode.
pub fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Behind the name, which may hold anything: state is field 3, utime 14 and stime 15.
    let (_, fields) = stat.rsplit_once(')').context("/proc/pid/stat has no name")?;
    let ticks: Vec<f64> = fields.split_whitespace().skip(11).take(2).filter_map(|f| f.parse().ok()).collect();
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

/// The most memory that a running process has had so far.
pub fn peak_rss_bytes(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("/proc/pid/status has no VmHWM")?;
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}

/// Wall and CPU time and the peak of resident memory of a process that has ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub wall_s: f64,
    pub cpu_s: f64,
    pub peak_rss_bytes: u64,
}

pub struct Measured {
    child: Child,
    began: Instant,
}

impl Measured {
    pub fn spawn(command: &mut Command) -> anyhow::Result<Self> {
        Ok(Self { child: command.spawn()?, began: Instant::now() })
    }

    /// Whether it has not ended yet.
    pub fn runs(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Asks it to end (SIGTERM): `firn run` commits what it has and exits 0.
    pub fn terminate(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            Command::new("sh").args(["-c", &format!("kill {}", self.child.id())]).status()?.success(),
            "kill failed"
        );
        Ok(())
    }

    /// Ends it as the kernel does.
    pub fn killed(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits for its end.
    #[allow(unsafe_code)] // the standard library has no wait that tells a single child's usage
    pub fn ended(self) -> anyhow::Result<Usage> {
        let mut status = 0;
        // SAFETY: both are plain data that the kernel fills; the child has not been waited for before.
        let (pid, used) = unsafe {
            let mut used: libc::rusage = std::mem::zeroed();
            (libc::wait4(self.child.id() as i32, &mut status, 0, &mut used), used)
        };
        anyhow::ensure!(pid > 0, "wait4 failed");
        anyhow::ensure!(status == 0, "the process failed (wait status {status}); see its log above");
        let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
        Ok(Usage {
            wall_s: self.began.elapsed().as_secs_f64(),
            cpu_s: seconds(used.ru_utime) + seconds(used.ru_stime),
            peak_rss_bytes: used.ru_maxrss as u64 * 1024,
        })
    }
}
