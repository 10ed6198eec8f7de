//! `larder serve`: wires the rooms together and runs them until SIGTERM; SIGHUP reads the configuration
//! again. The one place that knows all of them.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, bail};
use arc_swap::{ArcSwap, ArcSwapOption};
use http::Request;
use hyper::body::Incoming;
use hyper::service::{Service as _, service_fn};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::args::Settings;
use super::binding::Binder;
use super::certificates::Certificates;
use super::logging::{self, Logging};
use super::progress::Progress;
use super::purging::Purging;
use super::reload::{Reloader, notes};
use super::samples::samples;
use super::supervisor;
use super::traces::Traces;
use super::warming::{HotFile, Replayed, Warming};
use super::writing;
use crate::admin::{Admin, Configuration, Peer};
use crate::cache::clock::{Clock, SystemClock};
use crate::cache::generations::Generations;
use crate::cache::hot::HotKeys;
use crate::cache::memory::MemoryTier;
use crate::cache::redis::{Hooks, RedisSettings, RedisTier, Servers, Tls};
use crate::cache::tier::SharedTier;
use crate::cache::{Bounds, Cache};
use crate::config::{self, Config, Problem, RedisServers, Severity};
use crate::http::accept::NoReads;
use crate::http::encoding::Encoder;
use crate::http::tls::Tls as Secured;
use crate::http::watch::Watchers;
use crate::http::write::WRITES_MAX;
use crate::http::{Service, accept};
use crate::metrics::{Connections, Metrics};
use crate::plugin::{CompileLimits, Registry, Worker};
use crate::route::Snapshot;
use crate::route::writing::WriteRoutes;

/// Serves until it is told to stop. Exits with 1 on what keeps it from starting.
pub(super) fn run(settings: &Settings) -> ExitCode {
    let (config, warnings) = match settings.load() {
        Ok(loaded) => loaded,
        Err(problems) => {
            super::complain(problems);
            return ExitCode::FAILURE;
        }
    };
    super::complain(warnings);
    keep_pages_small();
    let progress = Progress::on_stderr();
    let log = logging::start(&config.log, &progress);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime cannot be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let served = runtime.block_on(serve(config, settings.clone(), (&log, &progress)));
    // What was logged comes before what is said last.
    drop(log);
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Wires the rooms together, serves until SIGTERM or SIGINT, then drains. Fails on what keeps it from starting: an
/// address in use, a plugin directory that cannot be read, a route bound to a plugin of the wrong kind.
async fn serve(
    config: Config,
    settings: Settings,
    (log, progress): (&Logging, &Progress),
) -> anyhow::Result<()> {
    // From the first moment: without somebody who hears it, it would end the process.
    let mut hangup = signal(SignalKind::hangup())?;
    raise_descriptor_limit();
    // Addresses first: a port in use is told before plugins are compiled.
    let public = listen(config.server.listen, "[server] listen").await?;
    let operator = listen(config.admin.listen, "[admin] listen").await?;
    let (public_address, admin_address) = (public.local_addr()?, operator.local_addr()?);

    let certificates = Certificates::open(&config)?;
    let traces = Traces::start(&config.traces)?;
    let tokens = super::tokens::read(&config.admin).or_else(|problems| {
        report(&problems)?;
        bail!("nobody would be let in to the admin listener as the configuration has it")
    })?;
    let tokens = Arc::new(ArcSwap::from_pointee(tokens));

    let metrics = Arc::new(Metrics::new());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let generations = Arc::new(Generations::new());
    let memory = Arc::new(MemoryTier::new(config.memory.capacity));
    let redis = redis_tier(&config, &generations, &clock, &memory)?;
    let shared = redis.clone().map(|redis| redis as Arc<dyn SharedTier>);
    let bounds = Bounds {
        loads_max: config.server.max_loads,
        waiters_max: config.server.max_waiters,
    };
    let cache = Arc::new(Cache::new(memory, shared, generations, clock, bounds));

    let behind = writing::open(&config, &cache, redis.as_ref())?;
    let hot = config
        .warms()
        .then(|| Arc::new(HotKeys::new(config.warm.keys)));
    let replayed = Arc::new(Replayed::default());

    let config = Arc::new(config);
    let routes = Arc::new(ArcSwap::from_pointee(Snapshot::starting(&config)));
    let worker = Worker::Process(CompileLimits::of(&config.plugins));
    let registry = Registry::open(&config, worker).context("opening the plugin directory")?;
    progress.follow(registry.compiling());

    let encoder = Arc::new(Encoder::new(config.memory.capacity / 10));
    let notes = Arc::new(ArcSwapOption::from_pointee(notes(&config, &cache)?));
    let binder = Binder::new(&config, &routes, &metrics, behind.as_ref(), redis.as_ref());
    let reloader = Arc::new(Reloader {
        settings,
        binder: Arc::clone(&binder),
        registry: Arc::clone(&registry),
        cache: Arc::clone(&cache),
        tokens: Arc::clone(&tokens),
        notes: Arc::clone(&notes),
        turn: Mutex::default(),
        is_refused: AtomicBool::new(false),
    });
    let (drain, draining) = watch::channel(false);
    let (stop, stopping) = watch::channel(false);
    let (stop_admin, stopping_admin) = watch::channel(false);
    let admin = Admin {
        routes: Arc::clone(&routes),
        cache: Arc::clone(&cache),
        metrics: Arc::clone(&metrics),
        plugins: Arc::clone(&registry),
        behind: behind.clone(),
        samples: samples(
            redis,
            &registry,
            &replayed,
            &encoder,
            certificates.listed(),
            log.dropped(),
            traces.as_ref().map(Traces::counts),
        ),
        tokens,
        started: std::time::Instant::now(),
        configuration: Arc::clone(&reloader) as Arc<dyn Configuration>,
        draining,
    };
    let admin_server = serve_admin(
        operator,
        admin,
        &config,
        certificates.admin.clone(),
        stopping_admin,
    );
    let changes = TaskTracker::new();
    let service = Arc::new(Service {
        routes: Arc::clone(&routes),
        cache: Arc::clone(&cache),
        metrics: Arc::clone(&metrics),
        hot: hot.clone(),
        encoder: Arc::clone(&encoder),
        notes,
        behind: behind.clone(),
        access_log: config.log.requests,
        is_traced: traces.is_some(),
        writes: Arc::new(Semaphore::new(WRITES_MAX)),
        watchers: Watchers::new(config.server.max_watchers, stopping.clone()),
        tasks: changes.clone(),
    });
    let public_server = serve_public(
        public,
        service,
        &config,
        certificates.public.clone(),
        metrics.connections.clone(),
        stopping.clone(),
    );
    // On stderr and not in the log: scripts read these two lines, whatever the log filter is. The second says that routes
    // are answered; what comes before that is told to try again.
    let scheme = |tls: &Option<Arc<Secured>>| if tls.is_some() { "https" } else { "http" };
    progress.above(|| eprintln!("admin on {}://{admin_address}", scheme(&certificates.admin)));

    let _alive = supervisor::keep_alive();
    let signalled = wait_for_signal();
    tokio::pin!(signalled);
    let judged = async {
        registry.judge(Arc::clone(&binder).rebind()).await;
        match binder.bind(&config, &registry) {
            Ok(problems) | Err(problems) => progress.above(|| report(&problems)),
        }
    };
    tokio::select! {
        judged = judged => judged?,
        told = &mut signalled => {
            info!("stopped before the plugins were judged");
            return told;
        }
    }
    let warming = hot.map(|hot| {
        let warming = Warming {
            hot,
            file: HotFile::new(&config.storage.dir),
            rate: config.warm.rate,
            routes: Arc::clone(&routes),
            cache: Arc::clone(&cache),
            replayed,
            progress: progress.clone(),
        };
        tokio::spawn(warming.run(stopping))
    });
    if let Some(behind) = &behind {
        let destinations = Arc::new(WriteRoutes(Arc::clone(&routes)));
        behind.deliver(destinations, writing::batching(&config.writes));
    }
    registry.read_feeds(Arc::new(Purging {
        routes,
        cache: Arc::clone(&cache),
    }));
    let pruning = tokio::spawn(prune(cache, Arc::clone(&binder)));
    let reloading = tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            reloader.at_signal().await;
        }
    });
    progress.above(|| {
        eprintln!(
            "listening on {}://{public_address}",
            scheme(&certificates.public)
        );
    });
    info!(%public_address, %admin_address, "serving");
    supervisor::ready("serving");

    signalled.await?;
    let config = binder.config();
    let waiting = progress.wait(format!(
        "draining, {} at most,",
        humantime::format_duration(config.server.drain)
    ));
    // `/readyz` says so from here on, while the admin listener stays until the end.
    drain.send_replace(true);
    supervisor::stopping("draining");
    let delay = config.server.drain_delay;
    if !delay.is_zero() {
        info!(
            ?delay,
            "draining begins after this time; until then connections are accepted"
        );
        // Whoever signals once more does not want to wait.
        let _ = tokio::time::timeout(delay, wait_for_signal()).await;
    }
    info!(drain = ?config.server.drain, "draining: no new connections, requests in flight are answered");
    stop.send_replace(true);
    let _ = public_server.await;
    // A change whose client has left: what it ends must be purged before the plugins go.
    changes.close();
    let _ = tokio::time::timeout(config.server.drain, changes.wait()).await;
    if let Some(warming) = warming {
        let _ = warming.await;
    }
    if let Some(behind) = &behind {
        behind.stop(config.writes.drain).await;
    }
    registry.shutdown(Duration::from_secs(10)).await;
    stop_admin.send_replace(true);
    let _ = admin_server.await;
    pruning.abort();
    drop(waiting);
    reloading.abort();
    if let Some(traces) = traces {
        traces.end().await;
    }
    info!("stopped");
    Ok(())
}

async fn listen(address: SocketAddr, setting: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}; choose another address in {setting}, or stop what listens there")
    })
}

fn redis_tier(
    config: &Config,
    generations: &Arc<Generations>,
    clock: &Arc<dyn Clock>,
    memory: &Arc<MemoryTier>,
) -> anyhow::Result<Option<Arc<RedisTier>>> {
    let Some(redis) = &config.redis else {
        return Ok(None);
    };
    let settings = RedisSettings {
        servers: servers(&redis.servers),
        tls: tls(redis)?,
        prefix: redis.prefix.clone(),
        timeout: redis.timeout,
        trust: redis.trust,
        journal: Some(config.storage.dir.clone()),
        longest_life_ms: Snapshot::longest_life_ms(config),
        kept: memory.is_on(),
    };
    let (cleared, older) = (Arc::clone(memory), Arc::clone(memory));
    let hooks = Hooks {
        // What is in memory may be older than purges this node had not heard of.
        resync: Box::new(move || cleared.clear()),
        stored: Box::new(move |key| older.drop_copy(key)),
    };
    let tier = RedisTier::start(settings, Arc::clone(generations), Arc::clone(clock), hooks)?;
    Ok(Some(tier))
}

/// Where Redis is, in the words of the tier.
pub(super) fn servers(configured: &RedisServers) -> Servers {
    match configured {
        RedisServers::Single(url) => Servers::Single(url.clone()),
        RedisServers::Cluster(urls) => Servers::Cluster(urls.clone()),
        RedisServers::Sentinel { master, sentinels } => Servers::Sentinel {
            master: master.clone(),
            sentinels: sentinels.clone(),
        },
    }
}

/// The certificates that the configuration names.
fn tls(redis: &config::Redis) -> anyhow::Result<Tls> {
    let read = |path: &Path, setting: &str| {
        let named = || format!("{setting} of [redis]: {} cannot be read", path.display());
        std::fs::read(path).with_context(named)
    };
    let identity = redis.identity.as_ref();
    Ok(Tls {
        ca: redis.ca.as_deref().map(|ca| read(ca, "ca")).transpose()?,
        identity: identity
            .map(|(cert, key)| anyhow::Ok((read(cert, "cert")?, read(key, "key")?)))
            .transpose()?,
    })
}

fn report(problems: &[Problem]) -> anyhow::Result<()> {
    for problem in problems {
        eprintln!("{problem}");
    }
    let errors = problems
        .iter()
        .filter(|problem| problem.severity == Severity::Error)
        .count();
    if errors > 0 {
        bail!("{errors} problem(s) of the configuration; `larder check` lists every one");
    }
    Ok(())
}

fn serve_public(
    listener: TcpListener,
    service: Arc<Service>,
    config: &Config,
    tls: Option<Arc<Secured>>,
    connections: Connections,
    stopping: watch::Receiver<bool>,
) -> tokio::task::JoinHandle<()> {
    let bounds = listener_bounds(config, config.server.max_connections, config.server.drain);
    let make = move |peer: accept::Peer| {
        let reads = Arc::clone(&service);
        let service = Arc::clone(&service);
        let service = service_fn(move |request| Arc::clone(&service).call(request, peer.address));
        (service, reads)
    };
    tokio::spawn(accept::serve(
        listener,
        make,
        bounds,
        tls,
        stopping,
        connections,
    ))
}

fn listener_bounds(config: &Config, connections_max: usize, drain: Duration) -> accept::Bounds {
    let server = &config.server;
    accept::Bounds {
        connections_max,
        handshake_timeout: server.handshake_timeout,
        header_timeout: server.header_timeout,
        write_timeout: server.write_timeout,
        header_bytes_max: server.header_bytes,
        headers_max: server.max_headers,
        streams_max: u32::try_from(server.max_streams).unwrap_or(u32::MAX),
        drain,
    }
}

fn serve_admin(
    listener: TcpListener,
    admin: Admin,
    config: &Config,
    tls: Option<Arc<Secured>>,
    stopping: watch::Receiver<bool>,
) -> tokio::task::JoinHandle<()> {
    let bounds = listener_bounds(config, 256, Duration::from_secs(1));
    let router = TowerToHyperService::new(admin.router());
    let make = move |peer: accept::Peer| {
        let router = router.clone();
        let peer = Peer {
            address: peer.address,
            certificate: peer.certificate,
        };
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            router.call(request)
        });
        (service, NoReads)
    };
    tokio::spawn(accept::serve::<_, _, _, axum::body::Body>(
        listener,
        make,
        bounds,
        tls,
        stopping,
        Connections::default(),
    ))
}

async fn prune(cache: Arc<Cache>, binder: Arc<Binder>) {
    let mut every = tokio::time::interval(Duration::from_secs(60));
    loop {
        every.tick().await;
        cache.prune(binder.longest_life_ms());
    }
}

async fn wait_for_signal() -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// An allocator's arena is mostly not used, but in pages of 2 MiB a little of each of its parts is all of them: a server that did
/// nothing held 77 MiB with them, and 45 where the allocator was told to do without. Hits were not slower.
fn keep_pages_small() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        debug!(%error, "the kernel does not leave huge pages out");
    }
}

/// Ten thousand connections need ten thousand descriptors, and distributions hand out 1024: takes what it may.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: now.maximum,
        maximum: now.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, limit = ?now.current, "the limit on open files could not be raised");
    }
}
