//! Which failpoints are armed, and what happens where one strikes.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::{Failure, Step, VARIABLE};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Before,
    After,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// kill -9 of the own process.
    Crash,
    Fail(Failure),
    Stall(Duration),
}

/// One line of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Armed {
    step: Step,
    when: When,
    action: Action,
    /// Which pass it strikes, from 1.
    pass: u32,
}

fn parse(line: &str) -> Result<Armed, String> {
    let wrong = || {
        let steps: Vec<&str> = Step::ALL.iter().map(|s| s.as_str()).collect();
        format!(
            "{VARIABLE}: {line:?} is no failpoint. One is STEP.before=ACTION or STEP.after=ACTION, and @N behind it strikes at the Nth \
             pass; STEP is one of {}; ACTION is crash, error, lost-answer or stall(MILLISECONDS)",
            steps.join(", ")
        )
    };
    let parts = || {
        let (place, rest) = line.trim().split_once('=')?;
        let (step, when) = place.split_once('.')?;
        let (action, pass) = rest.split_once('@').unwrap_or((rest, "1"));
        let step = *Step::ALL.iter().find(|s| s.as_str() == step)?;
        let when = match when {
            "before" => When::Before,
            "after" => When::After,
            _ => return None,
        };
        let action = match action {
            "crash" => Action::Crash,
            "error" => Action::Fail(Failure::Error),
            "lost-answer" => Action::Fail(Failure::LostAnswer),
            stall => {
                Action::Stall(Duration::from_millis(stall.strip_prefix("stall(")?.strip_suffix(')')?.parse().ok()?))
            }
        };
        let pass = pass.parse().ok().filter(|n| *n > 0)?;
        Some(Armed { step, when, action, pass })
    };
    parts().ok_or_else(wrong)
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty())
}

fn file() -> Option<&'static Path> {
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    FILE.get_or_init(|| std::env::var_os(VARIABLE).filter(|name| !name.is_empty()).map(PathBuf::from)).as_deref()
}

pub(super) fn check() -> Result<(), String> {
    let Some(file) = file() else { return Ok(()) };
    match fs::read_to_string(file) {
        Ok(text) => lines(&text).try_for_each(|line| parse(line).map(drop)),
        // Armed later.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(format!("{VARIABLE}: {}: {e}", file.display())),
    }
}

pub(super) fn blocking(step: Step, when: When) -> Result<(), Failure> {
    match file().and_then(|file| strike(file, step, when)) {
        None => Ok(()),
        Some(Action::Crash) => crash(),
        Some(Action::Fail(failure)) => Err(failure),
        Some(Action::Stall(time)) => {
            std::thread::sleep(time);
            Ok(())
        }
    }
}

pub(super) async fn waiting(step: Step, when: When) -> Result<(), Failure> {
    match file().and_then(|file| strike(file, step, when)) {
        None => Ok(()),
        Some(Action::Crash) => crash(),
        Some(Action::Fail(failure)) => Err(failure),
        Some(Action::Stall(time)) => {
            tokio::time::sleep(time).await;
            Ok(())
        }
    }
}

/// What is to happen at this pass, taken out of the file.
fn strike(file: &Path, step: Step, when: When) -> Option<Action> {
    /// How often the armed lines were passed.
    static PASSES: Mutex<Option<HashMap<(PathBuf, String), u32>>> = Mutex::new(None);
    let mut passes = PASSES.lock().unwrap_or_else(PoisonError::into_inner);
    let text = fs::read_to_string(file).ok()?;
    let here = |line: &&str| parse(line).is_ok_and(|armed| (armed.step, armed.when) == (step, when));
    let line = lines(&text).find(here)?;
    let armed = parse(line).ok()?;
    let key = (file.to_owned(), line.to_owned());
    let passes = passes.get_or_insert_default();
    let count = passes.entry(key.clone()).or_default();
    *count += 1;
    if *count < armed.pass {
        return None;
    }
    passes.remove(&key);
    tracing::warn!(failpoint = line, "struck");
    let rest: String = lines(&text).filter(|other| *other != line).map(|line| format!("{line}\n")).collect();
    // Renamed into its place: whoever arms or looks sees a whole file.
    let next = file.with_extension("next");
    if let Err(e) = fs::write(&next, rest).and_then(|()| fs::rename(&next, file)) {
        tracing::error!("{VARIABLE}: {} can't be written, nothing strikes: {e}", file.display());
        return None;
    }
    Some(armed.action)
}

fn crash() -> ! {
    let _ = Command::new("sh").arg("-c").arg(format!("kill -9 {}", std::process::id())).status();
    // Only where there is no shell.
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn every_step_can_be_armed_by_its_name() {
        for step in Step::ALL {
            let armed = parse(&format!("{}.after=error", step.as_str())).unwrap();
            assert_eq!((armed.step, armed.when, armed.pass), (step, When::After, 1));
        }
    }

    #[rstest]
    #[case("swap.before=crash", Action::Crash, 1)]
    #[case(" swap.before=lost-answer@3 ", Action::Fail(Failure::LostAnswer), 3)]
    #[case("swap.before=stall(30000)@2", Action::Stall(Duration::from_secs(30)), 2)]
    fn an_action_is_taken_as_it_is_written(#[case] line: &str, #[case] action: Action, #[case] pass: u32) {
        assert_eq!(parse(line), Ok(Armed { step: Step::Swap, when: When::Before, action, pass }));
    }

    #[rstest]
    #[case("swop.before=crash")]
    #[case("swap=crash")]
    #[case("swap.during=crash")]
    #[case("swap.before=explode")]
    #[case("swap.before=stall")]
    #[case("swap.before=crash@0")]
    fn a_wrong_word_is_told_with_the_right_ones(#[case] line: &str) {
        let said = parse(line).unwrap_err();
        assert!(Step::ALL.iter().all(|s| said.contains(s.as_str())) && said.contains(line), "{said}");
    }

    #[test]
    fn a_line_strikes_once_at_its_pass_and_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("armed");
        assert_eq!(strike(&file, Step::Swap, When::Before), None, "without the file nothing is armed");
        fs::write(&file, "swap.before=error@2\nlock.after=crash\n").unwrap();
        assert_eq!(strike(&file, Step::Swap, When::After), None);
        assert_eq!(strike(&file, Step::Swap, When::Before), None, "the first pass");
        assert_eq!(strike(&file, Step::Swap, When::Before), Some(Action::Fail(Failure::Error)));
        assert_eq!(fs::read_to_string(&file).unwrap(), "lock.after=crash\n");
        assert_eq!(strike(&file, Step::Swap, When::Before), None);
        fs::write(&file, "swap.before=error@2\n").unwrap();
        assert_eq!(strike(&file, Step::Swap, When::Before), None, "armed anew, it counts anew");
    }
}
