//! The writer: `firn run` in a process of its own, so that it can be killed as a crash would kill it.

use std::{
    fs::OpenOptions,
    io,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::process::{Child, Command};

/// How long a writer that was told to stop may take for its last commit.
const LAST_COMMIT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Writer {
    child: Child,
}

impl Writer {
    /// Starts this very program as `run -c config`; what it prints is appended to `log`.
    ///
    /// # Errors
    /// When the process can't be started.
    pub fn start(config: &Path, log: &Path) -> io::Result<Self> {
        let out = OpenOptions::new().create(true).append(true).open(log)?;
        let err = out.try_clone()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("run").arg("-c").arg(config);
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        // Ends with the demo, whatever ends the demo; a Ctrl-C meant for the demo doesn't reach it first.
        command.kill_on_drop(true).process_group(0);
        Ok(Self { child: command.spawn()? })
    }

    /// `Some` once it has ended by itself.
    ///
    /// # Errors
    /// When the process can't be asked.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// kill -9, and waits until it is gone.
    ///
    /// # Errors
    /// When it can't be killed.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.child.kill().await
    }

    /// SIGTERM: commits what it has and ends.
    ///
    /// # Errors
    /// When it can't be told, or doesn't end in time.
    pub async fn terminate(&mut self) -> io::Result<ExitStatus> {
        if let Some(id) = self.child.id() {
            // The standard library sends no signal but SIGKILL, and this crate has no unsafe code. The shell's own kill: a bare
            // system has no program of that name.
            Command::new("sh").args(["-c", &format!("kill -TERM {id}")]).status().await?;
        }
        match tokio::time::timeout(LAST_COMMIT, self.child.wait()).await {
            Ok(status) => status,
            Err(_) => {
                self.child.kill().await?;
                Err(io::Error::new(io::ErrorKind::TimedOut, "it did not end after SIGTERM and was killed"))
            }
        }
    }
}
