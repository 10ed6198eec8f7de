//! The faults: what is done to Redis or to the network before it, and how it is undone. Must not know what is asked
//! meanwhile.

use std::time::Duration;

use larder_tests::network::Weather;

use crate::stage::Server;

/// One row of the table.
pub(crate) struct Fault {
    /// As the table prints it.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) purges: Purges,
}

/// What a purge must say while the fault lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purges {
    /// That Redis is yet to be told.
    Wait,
    /// That Redis has it.
    Arrive,
    /// One or the other: it depends on the moment.
    Either,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Killed,
    Frozen,
    Flushed,
    Full,
    ReadOnly,
    Loading,
    NoAuth,
    WrongType,
    Failover,
    Network(Weather),
}

const fn fault(name: &'static str, kind: Kind, purges: Purges) -> Fault {
    Fault { name, kind, purges }
}

const fn network(name: &'static str, weather: Weather, purges: Purges) -> Fault {
    fault(name, Kind::Network(weather), purges)
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) const FAULTS: &[Fault] = &[
    fault("killed", Kind::Killed, Purges::Wait),
    fault("SIGSTOP", Kind::Frozen, Purges::Wait),
    fault("FLUSHALL", Kind::Flushed, Purges::Arrive),
    fault("OOM", Kind::Full, Purges::Wait),
    fault("READONLY", Kind::ReadOnly, Purges::Wait),
    fault("LOADING", Kind::Loading, Purges::Wait),
    fault("NOAUTH", Kind::NoAuth, Purges::Wait),
    fault("WRONGTYPE", Kind::WrongType, Purges::Either),
    fault("failover", Kind::Failover, Purges::Either),
    network("half-open", Weather::HalfOpen, Purges::Wait),
    network("answers lost", Weather::Unanswered, Purges::Wait),
    // Below the timeout of a command, and above it with a second one.
    network("60 ms of latency", Weather::Late(ms(30)), Purges::Either),
    network("600 ms of latency", Weather::Late(ms(300)), Purges::Wait),
    network("lost segments", Weather::Lossy(ms(200)), Purges::Either),
    network("resets", Weather::Resetting(8 * 1024), Purges::Either),
    network("slices", Weather::Sliced(7), Purges::Arrive),
    network("8 KiB/s", Weather::Narrow(8 * 1024), Purges::Either),
];

impl Fault {
    pub(crate) async fn strike(&self, server: &mut Server) {
        match (self.kind, server) {
            (Kind::Failover, Server::Watched(watched)) => watched.master.kill().await,
            (Kind::Network(weather), Server::Alone { link, .. }) => link.turn(weather).await,
            (kind, Server::Alone { redis, .. }) => match kind {
                Kind::Killed => redis.kill().await,
                Kind::Frozen => redis.freeze(),
                Kind::Flushed => redis.run::<()>("FLUSHALL", &[] as &[&str]).await,
                Kind::Full => redis.fill().await,
                Kind::ReadOnly => redis.make_read_only().await,
                Kind::Loading => redis.begin_loading().await,
                Kind::NoAuth => redis.change_password("another").await,
                // Entries, generations, leases and the group.
                Kind::WrongType => {
                    for key in redis.keys("larder:*").await {
                        redis.make_list(&key).await;
                    }
                }
                Kind::Failover | Kind::Network(_) => unreachable!("has arms of its own"),
            },
            (kind, server) => panic!("{kind:?} cannot happen to {server:?}"),
        }
    }

    /// Undoes it. For a failover: until the promotion.
    pub(crate) async fn heal(&self, server: &mut Server) {
        match (self.kind, server) {
            (Kind::Failover, Server::Watched(watched)) => {
                watched.sentinel.until_promoted(watched.master.port).await;
            }
            (Kind::Network(_), Server::Alone { link, .. }) => link.heal().await,
            (kind, Server::Alone { redis, .. }) => match kind {
                Kind::Killed => redis.restart().await,
                Kind::Frozen => redis.thaw(),
                Kind::Full => redis.empty().await,
                Kind::ReadOnly => redis.make_writable().await,
                Kind::Loading => redis.finish_loading().await,
                Kind::NoAuth => redis.change_password("").await,
                Kind::WrongType => {
                    for key in redis.keys("larder:*").await {
                        if redis.run::<String>("TYPE", &[&key]).await == "list" {
                            redis.run::<()>("DEL", &[&key]).await;
                        }
                    }
                }
                // It is over as soon as it has happened.
                Kind::Flushed | Kind::Failover | Kind::Network(_) => {}
            },
            (kind, server) => panic!("{kind:?} cannot happen to {server:?}"),
        }
    }
}
