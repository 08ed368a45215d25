//! Whether a server can be trusted with positions, by its own account.

use crate::sink::SinkError;

/// XTRIM MINID, and scripts that replicate their effects by default.
const OLDEST: (u32, u32) = (6, 2);

/// The value of a line of INFO's answer, empty where there is none.
fn value<'a>(info: &'a str, key: &str) -> &'a str {
    info.lines().find_map(|line| line.trim_end().strip_prefix(key)?.strip_prefix(':')).unwrap_or_default()
}

/// The server process, and whether it keeps an append-only file.
pub(super) fn process(info: &str) -> (&str, bool) {
    (value(info, "run_id"), value(info, "aof_enabled") == "1")
}

/// Reads what INFO answers. One line about the server for a person.
///
/// # Errors
/// `Stopped` where firn can't work with it.
pub(super) fn judge(at: &str, info: &str) -> Result<String, SinkError> {
    let value = |key: &str| value(info, key);
    let refuse = |why: String| Err(SinkError::Stopped(format!("Redis at {at}: {why}")));
    let version = value("redis_version");
    let mut numbers = version.split('.').map_while(|n| n.parse::<u32>().ok());
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else {
        return refuse("INFO tells no version: is it a Redis, and may the user ask INFO?".to_owned());
    };
    if (major, minor) < OLDEST {
        return refuse(format!("version {version} is too old: firn needs Redis {}.{} or later", OLDEST.0, OLDEST.1));
    }
    if value("cluster_enabled") == "1" {
        return refuse(
            "it is a Redis Cluster, where one script can't reach all keys: name a Redis of its own".to_owned(),
        );
    }
    if value("role") == "slave" {
        return refuse(format!(
            "it is a replica of {}:{}: name the primary, or a name that leads to it",
            value("master_host"),
            value("master_port")
        ));
    }
    let policy = value("maxmemory_policy");
    if policy.starts_with("allkeys") {
        return refuse(format!(
            "maxmemory-policy is {policy}: when memory runs out it would drop positions and rows. Set noeviction (or volatile-*, \
             which drops keys with a ttl only): CONFIG SET maxmemory-policy noeviction"
        ));
    }
    let name = match value("valkey_version") {
        "" => format!("Redis {version}"),
        valkey => format!("Valkey {valkey}"),
    };
    Ok(format!("{name} at {at}, maxmemory-policy {policy}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const GOOD: &str =
        "# Server\r\nredis_version:7.0.15\r\nrole:master\r\ncluster_enabled:0\r\nmaxmemory_policy:noeviction\r\n";

    #[rstest]
    #[case("7.0.15", "6.2.0", Ok("Redis 6.2.0 at r:1, maxmemory-policy noeviction"))]
    #[case("7.0.15", "7.2.4\r\nvalkey_version:8.0.1", Ok("Valkey 8.0.1 at r:1, maxmemory-policy noeviction"))]
    #[case("noeviction", "volatile-lru", Ok("Redis 7.0.15 at r:1, maxmemory-policy volatile-lru"))]
    #[case("7.0.15", "6.0.16", Err("version 6.0.16 is too old"))]
    #[case("7.0.15", "", Err("tells no version"))]
    #[case("cluster_enabled:0", "cluster_enabled:1", Err("Redis Cluster"))]
    #[case("role:master", "role:slave\r\nmaster_host:h\r\nmaster_port:2", Err("replica of h:2"))]
    #[case("noeviction", "allkeys-lru", Err("maxmemory-policy is allkeys-lru"))]
    fn servers_are_judged(#[case] from: &str, #[case] to: &str, #[case] want: Result<&str, &str>) {
        match (judge("r:1", &GOOD.replace(from, to)), want) {
            (Ok(line), Ok(want)) => assert_eq!(line, want),
            (Err(SinkError::Stopped(why)), Err(want)) => assert!(why.contains(want), "{why}"),
            (got, want) => panic!("{got:?} instead of {want:?}"),
        }
    }
}
