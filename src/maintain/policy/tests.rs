//! When a table's upkeep is due, and what is worth it, by a clock that the tests set.

use rstest::rstest;

use super::*;

const MIN: i64 = 60_000;
const HOUR: i64 = 60 * MIN;

fn policy(text: &str) -> PolicyConfig {
    toml::from_str(&format!("enabled = true\n{text}")).unwrap()
}

/// Compaction alone.
fn compacts(every: &str, more: &str) -> PolicyConfig {
    policy(&format!("compact_every = '{every}'\nmanifests_every = 'off'\nexpire_every = 'off'\n{more}"))
}

/// What is done in a time, with runs that take `takes_ms` and end as told; the clock goes on second by second.
fn runs(
    schedule: &mut Schedule,
    from: i64,
    to: i64,
    takes_ms: i64,
    mut ended: impl FnMut(&str, i64) -> Ended,
) -> (Vec<(i64, String, Kind)>, Vec<Deferral>) {
    let (mut now, mut done, mut deferred) = (from, vec![], vec![]);
    while now < to {
        let turn = schedule.turn(now);
        deferred.extend(turn.deferrals);
        match turn.run {
            Some((table, kind)) => {
                done.push((now, table.clone(), kind));
                now += takes_ms;
                let ended = ended(&table, now);
                schedule.ended(&table, kind, ended, now);
            }
            None => now += 1_000,
        }
    }
    (done, deferred)
}

#[test]
fn each_kind_comes_as_often_as_the_policy_says() {
    let policy = policy("compact_every = '10m'\nmanifests_every = '30m'\nexpire_every = '1h'\norphans_every = '12h'");
    let mut schedule = Schedule::default();
    schedule.keep([("a.t", &policy)], 0);
    let (done, deferred) = runs(&mut schedule, 0, 24 * HOUR, 2_000, |_, _| Ended::Well);
    let times = |kind: Kind| done.iter().filter(|(_, _, k)| *k == kind).count();
    assert_eq!(Kind::ALL.map(times), [144, 48, 24, 2]);
    assert_eq!(deferred, []);
}

#[test]
fn what_is_off_is_never_due() {
    let mut schedule = Schedule::default();
    let (off, on) = (PolicyConfig::default(), compacts("1m", ""));
    schedule.keep([("a.off", &off), ("a.on", &on)], 0);
    let (done, _) = runs(&mut schedule, 0, HOUR, 0, |_, _| Ended::Well);
    assert!(!done.is_empty() && done.iter().all(|(_, table, kind)| table == "a.on" && *kind == Kind::Compact));
}

#[test]
fn who_takes_a_table_over_goes_on_with_what_comes_next() {
    let policy = compacts("7d", "");
    let of = |schedule: &Schedule| schedule.jobs("a.t").next().unwrap().1;
    let mut first = Schedule::default();
    first.keep([("a.t", &policy)], 0);
    let due = of(&first);
    // A process that is started anew every hour does not begin to count anew, nor does it do at once what was done.
    for now in (0..due).step_by(HOUR as usize) {
        let mut other = Schedule::default();
        other.keep([("a.t", &policy)], now);
        assert_eq!((of(&other), other.turn(now).run), (due, None));
    }
    let mut after = Schedule::default();
    after.keep([("a.t", &policy)], due);
    assert_eq!(of(&after), due + 7 * 24 * HOUR);
    // Given up, and taken back.
    first.keep([], 0);
    assert_eq!(first.jobs("a.t").count(), 0);
}

#[test]
fn tables_are_not_due_all_at_once() {
    let policy = compacts("10m", "");
    let names: Vec<String> = (0..100).map(|n| format!("a.t{n}")).collect();
    let mut schedule = Schedule::default();
    schedule.keep(names.iter().map(|name| (name.as_str(), &policy)), 0);
    let mut by_minute = [0; 10];
    for name in &names {
        let due = schedule.jobs(name).next().unwrap().1;
        by_minute[usize::try_from((due - 1) / MIN).unwrap()] += 1;
    }
    assert!(by_minute.iter().all(|n| (1..30).contains(n)), "{by_minute:?}");
}

#[test]
fn in_quiet_hours_nothing_begins_and_it_is_told_once() {
    let policy = compacts("10m", "quiet_hours = '08:00-18:00'");
    let mut schedule = Schedule::default();
    schedule.keep([("a.t", &policy)], 0);
    let (done, deferred) = runs(&mut schedule, 0, 24 * HOUR, 1_000, |_, _| Ended::Well);
    assert!(done.iter().all(|(at, _, _)| *at < 8 * HOUR || *at >= 18 * HOUR), "{done:?}");
    assert_eq!(deferred, [Deferral { table: "a.t".to_owned(), kind: Kind::Compact, reason: Reason::QuietHours }]);
    assert!(done.iter().any(|(at, _, _)| *at == 18 * HOUR), "what was due is done as soon as they are over: {done:?}");
    assert_eq!(done.len(), 6 * 14 + 1, "once, however often it would have been due");
}

#[test]
fn what_came_due_in_quiet_hours_is_not_forgotten_by_a_restart() {
    let policy = compacts("6h", "quiet_hours = '08:00-18:00'");
    let mut before = Schedule::default();
    before.keep([("a.t", &policy)], 8 * HOUR);
    let mut after = Schedule::default();
    after.keep([("a.t", &policy)], 17 * HOUR);
    let due = |schedule: &Schedule| schedule.jobs("a.t").next().unwrap().1;
    assert_eq!(due(&after), due(&before));
    assert_eq!(after.turn(17 * HOUR).run, None);
    assert!(after.turn(18 * HOUR).run.is_some());
}

#[test]
fn a_run_that_quiet_hours_end_is_due_still() {
    let policy = compacts("2h", "quiet_hours = '08:00-18:00'");
    let mut schedule = Schedule::default();
    schedule.keep([("a.t", &policy)], 7 * HOUR);
    let due = schedule.jobs("a.t").next().unwrap().1;
    let began = due.min(8 * HOUR - 1_000);
    schedule.keep([], began);
    schedule.keep([("a.t", &policy)], began - 2 * HOUR);
    assert!(schedule.turn(began).run.is_some());
    schedule.ended("a.t", Kind::Compact, Ended::Early, 8 * HOUR);
    assert_eq!(schedule.turn(9 * HOUR).run, None);
    assert!(schedule.turn(18 * HOUR).run.is_some());
}

#[test]
fn a_table_that_fails_waits_longer_each_time_and_holds_up_no_other() {
    let policy = compacts("1m", "");
    let mut schedule = Schedule::default();
    schedule.keep([("a.bad", &policy), ("a.good", &policy)], 0);
    let (done, _) = runs(&mut schedule, 0, 10 * HOUR, 100, |table, now| match table {
        "a.bad" if now < 9 * HOUR => Ended::Failed,
        _ => Ended::Well,
    });
    let of = |name: &str| done.iter().filter(|(_, table, _)| table == name).map(|(at, _, _)| *at).collect::<Vec<_>>();
    let waits: Vec<i64> = of("a.bad").windows(2).map(|two| (two[1] - two[0]) / 1_000).collect();
    assert!(
        waits[..7].iter().zip([30, 60, 120, 240, 480, 960, 1920]).all(|(got, want)| (want..want + 3).contains(got)),
        "{waits:?}"
    );
    assert!(waits.iter().all(|wait| *wait <= 3_602), "{waits:?}");
    assert!(waits.last().is_some_and(|wait| *wait <= 61), "mended, it is as before: {waits:?}");
    assert!(of("a.good").len() >= 595, "{}", of("a.good").len());
}

#[test]
fn one_after_the_other_and_who_waits_longest_is_next() {
    let policy = compacts("1m", "");
    let names = ["a.t0", "a.t1", "a.t2", "a.t3"];
    let mut schedule = Schedule::default();
    schedule.keep(names.map(|name| (name, &policy)), 0);
    // Four tables a minute, and each takes a minute.
    let (done, deferred) = runs(&mut schedule, 0, 4 * HOUR, MIN, |_, _| Ended::Well);
    for name in names {
        let times = done.iter().filter(|(_, table, _)| table == name).count();
        assert!((55..=65).contains(&times), "{name}: {times}");
    }
    assert!(deferred.len() > 100 && deferred.iter().all(|d| d.reason == Reason::Budget), "{}", deferred.len());
}

#[rstest]
#[case::much_to_do(Kind::Compact, Some(100), Some(0), None, true)]
#[case::few_files(Kind::Compact, Some(4), Some(0), None, false)]
#[case::few_files_with_deleted_rows(Kind::Compact, Some(4), Some(7), None, true)]
#[case::not_known(Kind::Compact, None, None, None, true)]
#[case::nothing_new(Kind::Compact, Some(100), Some(0), Some(42), false)]
#[case::something_new(Kind::Compact, Some(100), Some(0), Some(41), true)]
#[case::orphans_are_never_known(Kind::Orphans, Some(1), Some(0), Some(42), true)]
fn what_the_metadata_tells_saves_a_look(
    #[case] kind: Kind,
    #[case] data_files: Option<u64>,
    #[case] deleted_rows: Option<u64>,
    #[case] seen: Option<i64>,
    #[case] want: bool,
) {
    let size = Size { data_files, equality_deletes: Some(0), ..Size::default() };
    let growth = Growth { deleted_rows, ..Growth::default() };
    let known = Known { snapshot_id: Some(42), size, growth, respecified: false };
    assert_eq!(known.is_worth_a_look(kind, &PolicyConfig::default(), seen), want);
}

#[test]
fn few_files_may_be_of_an_older_partition_spec() {
    let size = Size { data_files: Some(1), equality_deletes: Some(0), ..Size::default() };
    let growth = Growth { deleted_rows: Some(0), ..Growth::default() };
    let known = |respecified| Known { size: size.clone(), growth, respecified, ..Known::default() };
    let looks = |known: Known| known.is_worth_a_look(Kind::Compact, &PolicyConfig::default(), None);
    assert!(looks(known(true)) && !looks(known(false)));
}

#[rstest]
#[case(Some(32), 1, false, false)]
#[case(Some(33), 2, true, true)]
#[case(None, 9, true, true)]
fn so_do_manifests_and_snapshots(
    #[case] manifests: Option<u64>,
    #[case] snapshots: u64,
    #[case] rewrites: bool,
    #[case] expires: bool,
) {
    let growth = Growth { manifests, snapshots, ..Growth::default() };
    let known = Known { growth, ..Known::default() };
    let policy = PolicyConfig::default();
    assert_eq!(known.is_worth_a_look(Kind::Manifests, &policy, None), rewrites);
    assert_eq!(known.is_worth_a_look(Kind::Expire, &policy, None), expires);
}
