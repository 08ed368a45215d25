//! Consumer groups, the classic protocol: join, sync, heartbeat, leave; and the offsets that groups commit.
//!
//! | state | a join | a sync | a heartbeat |
//! |---|---|---|---|
//! | empty | begins to gather | unknown member | unknown member |
//! | gathering | waits for the others | rebalance in progress | rebalance in progress |
//! | assigning (the leader decides) | gathers again | waits for the leader | fine |
//! | stable | gathers again | its assignment | fine |
//!
//! Gathering ends when every known member has joined again, or its time is up: who hasn't is out. A member that is silent for its session
//! time-out is out, so a killed process holds its partitions that long, as with Kafka.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::log::code;

/// How long an empty group waits for more members after its first: Kafka's group.initial.rebalance.delay.ms, but short.
const GATHER: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub struct Join {
    pub group: String,
    /// Empty at the first join.
    pub member: String,
    pub client_id: String,
    pub session_timeout: Duration,
    pub rebalance_timeout: Duration,
    /// Assignors that the member knows, the favourite first, with its subscription.
    pub protocols: Vec<(String, Vec<u8>)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Joined {
    pub error: i16,
    pub generation: i32,
    pub protocol: String,
    pub leader: String,
    pub member: String,
    /// All members with their subscriptions; told to the leader alone.
    pub members: Vec<(String, Vec<u8>)>,
}

/// A sync's answer: error code, assignment.
pub type Synced = (i16, Vec<u8>);

#[derive(Debug)]
struct Member {
    join: Join,
    last_seen: Instant,
    joining: Option<oneshot::Sender<Joined>>,
    syncing: Option<oneshot::Sender<Synced>>,
    assignment: Vec<u8>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Empty,
    Gathering {
        not_before: Instant,
        until: Instant,
    },
    Assigning,
    Stable,
}

#[derive(Debug, Default)]
struct Group {
    state: State,
    generation: i32,
    leader: String,
    members: BTreeMap<String, Member>,
    offsets: HashMap<(String, i32), (i64, String)>,
}

#[derive(Debug, Default)]
pub struct Groups {
    groups: BTreeMap<String, Group>,
    member_count: u64,
}

impl Groups {
    /// The receiver answers when the group is complete. It fails only when the broker ends.
    pub fn join(&mut self, mut join: Join, now: Instant) -> oneshot::Receiver<Joined> {
        let (answer, answered) = oneshot::channel();
        let group = self.groups.entry(join.group.clone()).or_default();
        if join.member.is_empty() {
            self.member_count += 1;
            join.member = format!("{}-{}", join.client_id, self.member_count);
        } else if !group.members.contains_key(&join.member) {
            refuse(answer, code::UNKNOWN_MEMBER_ID, &join.member);
            return answered;
        }
        let in_common =
            |other: &Member| other.join.protocols.iter().any(|(p, _)| join.protocols.iter().any(|(q, _)| p == q));
        if !group.members.values().all(in_common) {
            refuse(answer, code::INCONSISTENT_GROUP_PROTOCOL, &join.member);
            return answered;
        }
        match group.state {
            State::Gathering { .. } => {}
            State::Empty => group.gather(now, GATHER),
            State::Assigning | State::Stable => group.gather(now, Duration::ZERO),
        }
        let member = Member { last_seen: now, joining: Some(answer), syncing: None, assignment: Vec::new(), join };
        group.members.insert(member.join.member.clone(), member);
        group.settle(now);
        answered
    }

    /// The leader brings everyone's assignment; the others wait for it.
    pub fn sync(
        &mut self,
        group: &str,
        generation: i32,
        member: &str,
        assignments: Vec<(String, Vec<u8>)>,
        now: Instant,
    ) -> oneshot::Receiver<Synced> {
        let (answer, answered) = oneshot::channel();
        let error = self.check(group, generation, member, now);
        let Some(group) = self.groups.get_mut(group).filter(|_| error == code::NONE) else {
            let _ = answer.send((error, Vec::new()));
            return answered;
        };
        if let Some(found) = group.members.get_mut(member) {
            found.syncing = Some(answer);
        }
        if matches!(group.state, State::Assigning) && group.leader == member {
            for (id, assignment) in assignments {
                if let Some(found) = group.members.get_mut(&id) {
                    found.assignment = assignment;
                }
            }
            group.state = State::Stable;
        }
        if matches!(group.state, State::Stable) {
            for found in group.members.values_mut() {
                if let Some(answer) = found.syncing.take() {
                    let _ = answer.send((code::NONE, found.assignment.clone()));
                }
            }
        }
        answered
    }

    /// Whether a member may act in a generation; a sign of life too.
    pub fn check(&mut self, group: &str, generation: i32, member: &str, now: Instant) -> i16 {
        let Some(group) = self.groups.get_mut(group) else { return code::UNKNOWN_MEMBER_ID };
        let Some(found) = group.members.get_mut(member) else { return code::UNKNOWN_MEMBER_ID };
        found.last_seen = now;
        match group.state {
            State::Gathering { .. } => code::REBALANCE_IN_PROGRESS,
            _ if generation != group.generation => code::ILLEGAL_GENERATION,
            _ => code::NONE,
        }
    }

    pub fn leave(&mut self, group: &str, member: &str, now: Instant) -> i16 {
        let Some(group) = self.groups.get_mut(group) else { return code::UNKNOWN_MEMBER_ID };
        if group.members.remove(member).is_none() {
            return code::UNKNOWN_MEMBER_ID;
        }
        group.lost_a_member(now);
        code::NONE
    }

    /// A member commits in its generation; with no member id, the group must have no members (an assigned consumer).
    pub fn commit(
        &mut self,
        group: &str,
        generation: i32,
        member: &str,
        offsets: impl IntoIterator<Item = ((String, i32), (i64, String))>,
        now: Instant,
    ) -> i16 {
        let simple = member.is_empty() && generation < 0;
        let error = match self.check(group, generation, member, now) {
            // What was read before a rebalance may still be committed while it goes on.
            code::REBALANCE_IN_PROGRESS => code::NONE,
            code::UNKNOWN_MEMBER_ID if simple && self.groups.get(group).is_none_or(|g| g.members.is_empty()) => {
                code::NONE
            }
            error => error,
        };
        if error == code::NONE {
            self.groups.entry(group.to_owned()).or_default().offsets.extend(offsets);
        }
        error
    }

    /// The committed offset and its metadata; -1 where there is none.
    pub fn committed(&self, group: &str, topic: &str, partition: i32) -> (i64, String) {
        let key = (topic.to_owned(), partition);
        self.groups.get(group).and_then(|g| g.offsets.get(&key)).cloned().unwrap_or((-1, String::new()))
    }

    pub fn committed_partitions(&self, group: &str) -> Vec<(String, i32)> {
        let mut all: Vec<_> = self.groups.get(group).into_iter().flat_map(|g| g.offsets.keys().cloned()).collect();
        all.sort();
        all
    }

    /// Puts silent members out and ends gatherings whose time is up.
    pub fn tick(&mut self, now: Instant) {
        for group in self.groups.values_mut() {
            let before = group.members.len();
            // Who waits for an answer is there: its connection is open.
            group.members.retain(|_, m| {
                m.joining.is_some() || m.syncing.is_some() || now < m.last_seen + m.join.session_timeout
            });
            if group.members.len() < before {
                group.lost_a_member(now);
            }
            group.settle(now);
        }
    }
}

impl Group {
    fn gather(&mut self, now: Instant, at_least: Duration) {
        let patience = self.members.values().map(|m| m.join.rebalance_timeout).max().unwrap_or(GATHER * 10);
        self.state = State::Gathering { not_before: now + at_least, until: now + patience.max(at_least) };
        for member in self.members.values_mut() {
            if let Some(answer) = member.syncing.take() {
                let _ = answer.send((code::REBALANCE_IN_PROGRESS, Vec::new()));
            }
        }
    }

    fn lost_a_member(&mut self, now: Instant) {
        if self.members.is_empty() {
            self.state = State::Empty;
        } else if !matches!(self.state, State::Gathering { .. }) {
            self.gather(now, Duration::ZERO);
        }
        self.settle(now);
    }

    /// Ends the gathering when all are there, or its time is up.
    fn settle(&mut self, now: Instant) {
        let State::Gathering { not_before, until } = self.state else { return };
        let all = self.members.values().all(|m| m.joining.is_some());
        if now < not_before || !all && now < until {
            return;
        }
        self.members.retain(|_, m| m.joining.is_some());
        let Some(first) = self.members.keys().next().cloned() else {
            self.state = State::Empty;
            return;
        };
        if !self.members.contains_key(&self.leader) {
            self.leader = first;
        }
        self.generation += 1;
        self.state = State::Assigning;
        let protocol = self.protocol();
        let subscriptions: Vec<(String, Vec<u8>)> = self
            .members
            .iter()
            .map(|(id, m)| {
                let subscription = m.join.protocols.iter().find(|(name, _)| *name == protocol);
                (id.clone(), subscription.map(|(_, s)| s.clone()).unwrap_or_default())
            })
            .collect();
        for (id, member) in &mut self.members {
            member.last_seen = now;
            let Some(answer) = member.joining.take() else { continue };
            // A receiver that is gone is a closed connection: the session time-out will tell.
            let _ = answer.send(Joined {
                error: code::NONE,
                generation: self.generation,
                protocol: protocol.clone(),
                leader: self.leader.clone(),
                member: id.clone(),
                members: if *id == self.leader { subscriptions.clone() } else { Vec::new() },
            });
        }
    }

    /// The leader's favourite among those that all know; `join` lets nobody in who shares none.
    fn protocol(&self) -> String {
        let known_by_all =
            |name: &String| self.members.values().all(|m| m.join.protocols.iter().any(|(other, _)| other == name));
        let leader = self.members.get(&self.leader);
        leader
            .into_iter()
            .flat_map(|m| &m.join.protocols)
            .map(|(name, _)| name.clone())
            .find(known_by_all)
            .unwrap_or_default()
    }
}

fn refuse(answer: oneshot::Sender<Joined>, error: i16, member: &str) {
    let _ = answer.send(Joined { error, generation: -1, member: member.to_owned(), ..Joined::default() });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(member: &str) -> Join {
        Join {
            group: "g".to_owned(),
            member: member.to_owned(),
            client_id: "c".to_owned(),
            session_timeout: Duration::from_secs(6),
            rebalance_timeout: Duration::from_secs(60),
            protocols: vec![("range".to_owned(), vec![1])],
        }
    }

    /// A group of one, assigned; its generation, and when.
    fn stable(groups: &mut Groups, begun: Instant) -> (Joined, Instant) {
        let mut joining = groups.join(join(""), begun);
        assert!(joining.try_recv().is_err(), "it waits for more members");
        let now = begun + GATHER;
        groups.tick(now);
        let joined = joining.try_recv().unwrap();
        assert_eq!((joined.error, &joined.leader), (code::NONE, &joined.member));
        let assignment = vec![(joined.member.clone(), vec![7])];
        let mut syncing = groups.sync("g", joined.generation, &joined.member, assignment, now);
        assert_eq!(syncing.try_recv().unwrap(), (code::NONE, vec![7]));
        (joined, now)
    }

    #[test]
    fn a_second_member_makes_the_first_join_again() {
        let mut groups = Groups::default();
        let (first, now) = stable(&mut groups, Instant::now());
        let mut second = groups.join(join(""), now);
        assert!(second.try_recv().is_err());
        assert_eq!(groups.check("g", first.generation, &first.member, now), code::REBALANCE_IN_PROGRESS);
        let mut again = groups.join(join(&first.member), now);
        let (first_again, second) = (again.try_recv().unwrap(), second.try_recv().unwrap());
        assert_eq!((first_again.generation, second.generation), (first.generation + 1, first.generation + 1));
        assert_eq!((first_again.members.len(), second.members.len()), (2, 0), "the leader alone is told the members");
    }

    #[test]
    fn a_silent_member_holds_its_place_for_its_session_and_no_longer() {
        let mut groups = Groups::default();
        let (_, now) = stable(&mut groups, Instant::now());
        let mut next = groups.join(join(""), now);
        groups.tick(now + Duration::from_millis(5900));
        assert!(next.try_recv().is_err());
        groups.tick(now + Duration::from_millis(6100));
        let joined = next.try_recv().unwrap();
        assert_eq!((joined.members.len(), &joined.leader), (1, &joined.member));
    }

    #[test]
    fn who_does_not_join_again_in_time_is_out_though_it_sends_heartbeats() {
        let mut groups = Groups::default();
        let (first, now) = stable(&mut groups, Instant::now());
        let mut next = groups.join(join(""), now);
        for second in 1..=61 {
            let now = now + Duration::from_secs(second);
            groups.check("g", first.generation, &first.member, now);
            groups.tick(now);
        }
        assert_eq!(next.try_recv().unwrap().members.len(), 1);
        assert_eq!(groups.check("g", first.generation, &first.member, now), code::UNKNOWN_MEMBER_ID);
    }

    #[test]
    fn offsets_of_a_stale_generation_or_an_unknown_member_are_refused() {
        let mut groups = Groups::default();
        let (joined, now) = stable(&mut groups, Instant::now());
        let offset = || [(("t".to_owned(), 0), (5, String::new()))];
        assert_eq!(groups.commit("g", joined.generation - 1, &joined.member, offset(), now), code::ILLEGAL_GENERATION);
        assert_eq!(groups.commit("g", joined.generation, "stranger", offset(), now), code::UNKNOWN_MEMBER_ID);
        assert_eq!(groups.commit("g", -1, "", offset(), now), code::UNKNOWN_MEMBER_ID, "the group has members");
        assert_eq!(groups.committed("g", "t", 0).0, -1);
        assert_eq!(groups.commit("g", joined.generation, &joined.member, offset(), now), code::NONE);
        assert_eq!(groups.committed("g", "t", 0).0, 5);
        assert_eq!(groups.commit("assigned", -1, "", offset(), now), code::NONE);
    }

    #[test]
    fn members_without_a_common_assignor_do_not_mix() {
        let mut groups = Groups::default();
        let (_, now) = stable(&mut groups, Instant::now());
        let other = Join { protocols: vec![("sticky".to_owned(), vec![])], ..join("") };
        assert_eq!(groups.join(other, now).try_recv().unwrap().error, code::INCONSISTENT_GROUP_PROTOCOL);
    }
}
