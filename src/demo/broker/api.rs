//! One function a call, each in the one version that [`SUPPORTED`] tells the client.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::{
    Shared,
    group::Join,
    log::{Fetched, code},
    wire::{Malformed, Reader, Writer},
};

const PRODUCE: i16 = 0;
const FETCH: i16 = 1;
const LIST_OFFSETS: i16 = 2;
const METADATA: i16 = 3;
const OFFSET_COMMIT: i16 = 8;
const OFFSET_FETCH: i16 = 9;
const FIND_COORDINATOR: i16 = 10;
const JOIN_GROUP: i16 = 11;
const HEARTBEAT: i16 = 12;
const LEAVE_GROUP: i16 = 13;
const SYNC_GROUP: i16 = 14;
const API_VERSIONS: i16 = 18;
const CREATE_TOPICS: i16 = 19;
const INIT_PRODUCER_ID: i16 = 22;

/// Each call and the version that is spoken: the newest of the classic encoding that brings nothing this broker hasn't.
const SUPPORTED: &[(i16, i16)] = &[
    (PRODUCE, 7),
    (FETCH, 4),
    (LIST_OFFSETS, 1),
    (METADATA, 5),
    (OFFSET_COMMIT, 5),
    (OFFSET_FETCH, 3),
    (FIND_COORDINATOR, 1),
    (JOIN_GROUP, 2),
    (HEARTBEAT, 1),
    (LEAVE_GROUP, 1),
    (SYNC_GROUP, 1),
    (API_VERSIONS, 0),
    (CREATE_TOPICS, 2),
    (INIT_PRODUCER_ID, 1),
];

const NODE_ID: i32 = 1;

/// The response to one request, its length in front; `None` where none is wanted.
pub(super) async fn answer(request: &[u8], shared: &Shared, stream: &TcpStream) -> Result<Option<Vec<u8>>, Malformed> {
    let mut r = Reader::new(request);
    let (api, version, correlation_id, client_id) =
        (r.i16()?, r.i16()?, r.i32()?, r.nullable_string()?.unwrap_or("client"));
    let mut w = Writer::response(correlation_id);
    if api == API_VERSIONS {
        // A newer client asks in a newer version and takes this answer as the word to use version 0.
        api_versions(&mut w, if version == 0 { code::NONE } else { code::UNSUPPORTED_VERSION });
        return Ok(Some(w.finish()));
    }
    if !SUPPORTED.contains(&(api, version)) {
        return Err(Malformed("a call or version that was not offered"));
    }
    match api {
        PRODUCE => {
            if !produce(&mut r, &mut w, shared)? {
                return Ok(None);
            }
        }
        FETCH => fetch(&mut r, &mut w, shared, stream).await?,
        LIST_OFFSETS => list_offsets(&mut r, &mut w, shared)?,
        METADATA => metadata(&mut r, &mut w, shared)?,
        OFFSET_COMMIT => offset_commit(&mut r, &mut w, shared)?,
        OFFSET_FETCH => offset_fetch(&mut r, &mut w, shared)?,
        FIND_COORDINATOR => find_coordinator(&mut w, shared),
        JOIN_GROUP => join_group(&mut r, &mut w, shared, client_id).await?,
        HEARTBEAT => {
            let (group, generation, member) = (r.string()?, r.i32()?, r.string()?);
            w.i32(0);
            w.i16(shared.groups().check(group, generation, member, Instant::now()));
        }
        LEAVE_GROUP => {
            let (group, member) = (r.string()?, r.string()?);
            w.i32(0);
            w.i16(shared.groups().leave(group, member, Instant::now()));
        }
        SYNC_GROUP => sync_group(&mut r, &mut w, shared).await?,
        CREATE_TOPICS => create_topics(&mut r, &mut w, shared)?,
        INIT_PRODUCER_ID => {
            w.i32(0);
            w.i16(code::NONE);
            w.i64(shared.log().new_producer_id());
            w.i16(0);
        }
        _ => return Err(Malformed("a call that was not offered")),
    }
    Ok(Some(w.finish()))
}

fn api_versions(w: &mut Writer, error: i16) {
    w.i16(error);
    w.array(SUPPORTED, |w, (api, version)| {
        w.i16(*api);
        // librdkafka switches features on by ranges that begin low, and then speaks the highest version both know.
        w.i16(*version);
        w.i16(*version);
    });
}

/// Whether an answer is wanted.
fn produce(r: &mut Reader<'_>, w: &mut Writer, shared: &Shared) -> Result<bool, Malformed> {
    let _transactional_id = r.nullable_string()?;
    let (acks, _timeout_ms) = (r.i16()?, r.i32()?);
    let topics = r.array(|r| Ok((r.string()?, r.array(|r| Ok((r.i32()?, r.bytes()?)))?)))?;
    {
        let mut log = shared.log();
        w.array(topics, |w, (topic, partitions)| {
            w.string(topic);
            w.array(partitions, |w, (partition, records)| {
                let (error, offset) = log.append(topic, partition, records);
                w.i32(partition);
                w.i16(error);
                w.i64(offset);
                w.i64(-1); // log append time: the records keep the producer's
                w.i64(0); // log start offset
            });
        });
    }
    w.i32(0);
    shared.appended.notify_waiters();
    Ok(acks != 0)
}

async fn fetch(r: &mut Reader<'_>, w: &mut Writer, shared: &Shared, stream: &TcpStream) -> Result<(), Malformed> {
    let (_replica, max_wait_ms, min_bytes, max_bytes, _isolation) = (r.i32()?, r.i32()?, r.i32()?, r.i32()?, r.i8()?);
    let asked = r.array(|r| Ok((r.string()?, r.array(|r| Ok((r.i32()?, r.i64()?, r.i32()?)))?)))?;
    let until = tokio::time::Instant::now() + Duration::from_millis(max_wait_ms.clamp(0, 30_000) as u64);
    let mut found;
    loop {
        // Asked for before the look at the log: an append between the two is not missed.
        let appended = shared.appended.notified();
        found = look(&asked, max_bytes.max(0) as usize, shared);
        let enough = found.iter().flat_map(|(_, p)| p).any(|(_, f)| f.error != code::NONE)
            || found.iter().flat_map(|(_, p)| p).flat_map(|(_, f)| &f.batches).map(|b| b.len()).sum::<usize>()
                >= min_bytes.max(1) as usize;
        if enough {
            break;
        }
        let mut next_byte = [0];
        tokio::select! {
            () = appended => {}
            () = tokio::time::sleep_until(until) => break,
            // Answers go out in the order of the requests: one that stands behind this must not wait for records.
            _ = stream.peek(&mut next_byte) => break,
        }
    }
    w.i32(0);
    w.array(found, |w, (topic, partitions)| {
        w.string(topic);
        w.array(partitions, |w, (partition, fetched)| {
            w.i32(partition);
            w.i16(fetched.error);
            w.i64(fetched.high_watermark);
            w.i64(fetched.high_watermark); // last stable offset: there are no transactions
            w.i32(-1); // nor aborted ones
            w.joined(&fetched.batches);
        });
    });
    Ok(())
}

type Asked<'a> = (&'a str, Vec<(i32, i64, i32)>);
type Found<'a> = (&'a str, Vec<(i32, Fetched)>);

fn look<'a>(asked: &[Asked<'a>], max_bytes: usize, shared: &Shared) -> Vec<Found<'a>> {
    let log = shared.log();
    let mut left = max_bytes;
    asked
        .iter()
        .map(|(topic, partitions)| {
            let found = partitions.iter().map(|(partition, offset, partition_bytes)| {
                let mut fetched = log.fetch(topic, *partition, *offset, left.min((*partition_bytes).max(0) as usize));
                if left == 0 {
                    fetched.batches.clear();
                }
                left = left.saturating_sub(fetched.batches.iter().map(|b| b.len()).sum());
                (*partition, fetched)
            });
            (*topic, found.collect())
        })
        .collect()
}

fn list_offsets(r: &mut Reader<'_>, w: &mut Writer, shared: &Shared) -> Result<(), Malformed> {
    let _replica = r.i32()?;
    let topics = r.array(|r| Ok((r.string()?, r.array(|r| Ok((r.i32()?, r.i64()?)))?)))?;
    let log = shared.log();
    w.array(topics, |w, (topic, partitions)| {
        w.string(topic);
        w.array(partitions, |w, (partition, timestamp_ms)| {
            let (error, timestamp_ms, offset) = log.offset_of(topic, partition, timestamp_ms);
            w.i32(partition);
            w.i16(error);
            w.i64(timestamp_ms);
            w.i64(offset);
        });
    });
    Ok(())
}

fn metadata(r: &mut Reader<'_>, w: &mut Writer, shared: &Shared) -> Result<(), Malformed> {
    let asked = r.nullable_array(Reader::string)?;
    let log = shared.log();
    let topics: Vec<(&str, Option<usize>)> = match asked {
        None => log.topics().map(|(topic, partitions)| (topic, Some(partitions))).collect(),
        // Topics are made by CreateTopics alone.
        Some(names) => names.into_iter().map(|topic| (topic, log.partition_count(topic))).collect(),
    };
    w.i32(0);
    w.array([NODE_ID], |w, id| {
        w.i32(id);
        w.string(&shared.address.ip().to_string());
        w.i32(i32::from(shared.address.port()));
        w.nullable_string(None);
    });
    w.nullable_string(Some("firn-demo"));
    w.i32(NODE_ID);
    w.array(topics, |w, (topic, partitions)| {
        w.i16(if partitions.is_some() { code::NONE } else { code::UNKNOWN_TOPIC_OR_PARTITION });
        w.string(topic);
        w.i8(0);
        w.array(0..partitions.unwrap_or(0), |w, partition| {
            w.i16(code::NONE);
            w.i32(partition as i32);
            w.i32(NODE_ID);
            w.array([NODE_ID], Writer::i32);
            w.array([NODE_ID], Writer::i32);
            w.array([], Writer::i32);
        });
    });
    Ok(())
}

fn offset_commit(r: &mut Reader<'_>, w: &mut Writer, shared: &Shared) -> Result<(), Malformed> {
    let (group, generation, member) = (r.string()?, r.i32()?, r.string()?);
    let topics = r.array(|r| {
        Ok((r.string()?, r.array(|r| Ok((r.i32()?, r.i64()?, r.nullable_string()?.unwrap_or_default())))?))
    })?;
    let offsets: Vec<_> = topics
        .iter()
        .flat_map(|(topic, partitions)| {
            partitions
                .iter()
                .map(|(partition, offset, note)| (((*topic).to_owned(), *partition), (*offset, (*note).to_owned())))
        })
        .collect();
    let error = shared.groups().commit(group, generation, member, offsets, Instant::now());
    w.i32(0);
    w.array(topics, |w, (topic, partitions)| {
        w.string(topic);
        w.array(partitions, |w, (partition, ..)| {
            w.i32(partition);
            w.i16(error);
        });
    });
    Ok(())
}

fn offset_fetch(r: &mut Reader<'_>, w: &mut Writer, shared: &Shared) -> Result<(), Malformed> {
    let group = r.string()?;
    let asked = r.nullable_array(|r| Ok((r.string()?.to_owned(), r.array(Reader::i32)?)))?;
    let groups = shared.groups();
    let topics = asked.unwrap_or_else(|| {
        groups.committed_partitions(group).into_iter().map(|(topic, partition)| (topic, vec![partition])).collect()
    });
    w.i32(0);
    w.array(topics, |w, (topic, partitions)| {
        w.string(&topic);
        w.array(partitions, |w, partition| {
            let (offset, note) = groups.committed(group, &topic, partition);
            w.i32(partition);
            w.i64(offset);
            w.nullable_string(Some(&note));
            w.i16(code::NONE);
        });
    });
    w.i16(code::NONE);
    Ok(())
}

fn find_coordinator(w: &mut Writer, shared: &Shared) {
    w.i32(0);
    w.i16(code::NONE);
    w.nullable_string(None);
    w.i32(NODE_ID);
    w.string(&shared.address.ip().to_string());
    w.i32(i32::from(shared.address.port()));
}

async fn join_group(r: &mut Reader<'_>, w: &mut Writer, shared: &Shared, client_id: &str) -> Result<(), Malformed> {
    let (group, session_ms, rebalance_ms, member) = (r.string()?, r.i32()?, r.i32()?, r.string()?);
    let _protocol_type = r.string()?;
    let protocols = r.array(|r| Ok((r.string()?.to_owned(), r.bytes()?.to_vec())))?;
    let join = Join {
        group: group.to_owned(),
        member: member.to_owned(),
        client_id: client_id.to_owned(),
        session_timeout: Duration::from_millis(session_ms.max(1000) as u64),
        rebalance_timeout: Duration::from_millis(rebalance_ms.max(1000) as u64),
        protocols,
    };
    let answered = shared.groups().join(join, Instant::now());
    let joined = answered.await.map_err(|_| Malformed("the member joined again on another connection"))?;
    w.i32(0);
    w.i16(joined.error);
    w.i32(joined.generation);
    w.string(&joined.protocol);
    w.string(&joined.leader);
    w.string(&joined.member);
    w.array(joined.members, |w, (member, subscription)| {
        w.string(&member);
        w.bytes(&subscription);
    });
    Ok(())
}

async fn sync_group(r: &mut Reader<'_>, w: &mut Writer, shared: &Shared) -> Result<(), Malformed> {
    let (group, generation, member) = (r.string()?, r.i32()?, r.string()?);
    let assignments = r.array(|r| Ok((r.string()?.to_owned(), r.bytes()?.to_vec())))?;
    let answered = shared.groups().sync(group, generation, member, assignments, Instant::now());
    let (error, assignment) = answered.await.unwrap_or((code::UNKNOWN_MEMBER_ID, Vec::new()));
    w.i32(0);
    w.i16(error);
    w.bytes(&assignment);
    Ok(())
}

fn create_topics(r: &mut Reader<'_>, w: &mut Writer, shared: &Shared) -> Result<(), Malformed> {
    let topics = r.array(|r| {
        let (topic, partitions, _replicas) = (r.string()?, r.i32()?, r.i16()?);
        let assigned = r.array(|r| Ok((r.i32()?, r.array(Reader::i32)?)))?;
        let _configs = r.array(|r| Ok((r.string()?, r.nullable_string()?)))?;
        Ok((topic, if assigned.is_empty() { partitions } else { assigned.len() as i32 }))
    })?;
    let mut log = shared.log();
    w.i32(0);
    w.array(topics, |w, (topic, partitions)| {
        w.string(topic);
        w.i16(log.create(topic, partitions));
        w.nullable_string(None);
    });
    Ok(())
}
