//! The machine loses power, the disk is full, or does not sync: played on a disk that knows what was synced.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use proptest::prelude::*;
use redb::StorageBackend;

use super::tests::{ROOMY, item, resource, settlement};
use super::*;
use crate::cache::queue::State;

/// A write that is not synced yet.
#[derive(Clone, Debug)]
enum Unsynced {
    Write(u64, Vec<u8>),
    Len(u64),
}

/// A disk: what is on it for sure, and what is on its way.
#[derive(Default)]
struct Platter {
    synced: Vec<u8>,
    seen: Vec<u8>,
    unsynced: Vec<Unsynced>,
}

#[derive(Clone, Default)]
struct Disk {
    platter: Arc<Mutex<Platter>>,
    /// Nothing can be written from now on.
    is_full: Arc<AtomicBool>,
    /// Nothing can be synced from now on.
    is_broken: Arc<AtomicBool>,
    syncs: Arc<AtomicU64>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

fn put(bytes: &mut Vec<u8>, change: &Unsynced) {
    match change {
        Unsynced::Len(len) => bytes.resize(usize::try_from(*len).unwrap(), 0),
        Unsynced::Write(offset, data) => {
            let at = usize::try_from(*offset).unwrap();
            if bytes.len() < at + data.len() {
                bytes.resize(at + data.len(), 0);
            }
            bytes[at..at + data.len()].copy_from_slice(data);
        }
    }
}

impl Disk {
    fn change(&self, change: Unsynced) -> Result<(), std::io::Error> {
        if self.is_full.load(Ordering::SeqCst) {
            return Err(std::io::Error::from(std::io::ErrorKind::StorageFull));
        }
        let mut platter = self.platter.lock();
        put(&mut platter.seen, &change);
        platter.unsynced.push(change);
        Ok(())
    }

    /// The disk after a loss of power: of what was on its way, what `survives` says, and of the first that does not, this
    /// many bytes.
    fn after_loss(&self, survives: &dyn Fn(usize) -> bool, torn: usize) -> Self {
        let platter = self.platter.lock();
        let mut bytes = platter.synced.clone();
        let mut is_torn = false;
        for (place, change) in platter.unsynced.iter().enumerate() {
            if survives(place) {
                put(&mut bytes, change);
            } else if !is_torn {
                is_torn = true;
                if let Unsynced::Write(offset, data) = change {
                    let kept = data[..torn.min(data.len())].to_vec();
                    put(&mut bytes, &Unsynced::Write(*offset, kept));
                }
            }
        }
        Self {
            platter: Arc::new(Mutex::new(Platter {
                seen: bytes.clone(),
                synced: bytes,
                unsynced: Vec::new(),
            })),
            ..Self::default()
        }
    }

    fn open(&self) -> Result<DiskQueue, redb::Error> {
        let disk = self.clone();
        let opener: Opener =
            Box::new(move || table::builder(1 << 20).create_with_backend(disk.clone()));
        DiskQueue::start(opener, ROOMY)
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, std::io::Error> {
        Ok(self.platter.lock().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        let platter = self.platter.lock();
        let at = usize::try_from(offset).unwrap();
        let Some(found) = platter.seen.get(at..at + out.len()) else {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
        };
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.change(Unsynced::Len(len))
    }

    fn sync_data(&self) -> Result<(), std::io::Error> {
        if self.is_broken.load(Ordering::SeqCst) {
            return Err(std::io::Error::other("the disk does not sync"));
        }
        self.syncs.fetch_add(1, Ordering::SeqCst);
        let mut platter = self.platter.lock();
        platter.synced = platter.seen.clone();
        platter.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        self.change(Unsynced::Write(offset, data.to_vec()))
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(future)
}

async fn holds(queue: &DiskQueue) -> Vec<String> {
    let found = queue.scan(0, 0, 1000).await.unwrap();
    let text = |queued: &Queued| String::from_utf8(queued.record.to_vec()).unwrap();
    found.iter().map(text).collect()
}

/// A disk on which these were accepted, and then one more is on its way: written, and not synced.
fn disk_with_a_tail(accepted: u128) -> Disk {
    let disk = Disk::default();
    let queue = disk.open().unwrap();
    block_on(async {
        for number in 0..accepted {
            let pushed = queue.push(item(number, "a")).await;
            assert!(matches!(pushed, Pushed::Accepted { .. }), "{pushed:?}");
        }
        disk.is_broken.store(true, Ordering::SeqCst);
        let pushed = queue.push(item(accepted, "a")).await;
        let Pushed::Unavailable { uncertain, .. } = pushed else {
            panic!("what is not synced is not accepted: {pushed:?}")
        };
        assert!(uncertain, "it may be on the disk all the same");
    });
    // The loss of power comes before anything else is done to it.
    let lost = disk.after_loss(&|_| true, 0);
    let mut platter = lost.platter.lock();
    let old = disk.platter.lock();
    platter.synced = old.synced.clone();
    platter.unsynced = old.unsynced.clone();
    drop((platter, old));
    lost
}

fn check(disk: &Disk, accepted: u128) {
    let queue = disk
        .open()
        .unwrap_or_else(|error| panic!("what was accepted cannot be read any more: {error}"));
    let wanted: Vec<_> = (0..accepted)
        .map(|number| format!("a is {number}"))
        .collect();
    let found = block_on(holds(&queue));
    // The last was never acknowledged: it is there whole, or not at all.
    let with_last = [&wanted[..], &[format!("a is {accepted}")]].concat();
    assert!(found == wanted || found == with_last, "{found:?}");
    // And it goes on from there.
    block_on(async {
        let pushed = queue.push(item(accepted + 1, "b")).await;
        assert!(matches!(pushed, Pushed::Accepted { .. }), "{pushed:?}");
        assert_eq!(holds(&queue).await.len(), found.len() + 1);
    });
}

#[test]
fn law_7_what_was_acknowledged_survives_a_loss_of_power_at_any_byte() {
    const ACCEPTED: u128 = 5;
    let disk = disk_with_a_tail(ACCEPTED);
    let writes: Vec<usize> = disk
        .platter
        .lock()
        .unsynced
        .iter()
        .map(|change| match change {
            Unsynced::Write(_, data) => data.len(),
            Unsynced::Len(_) => 1,
        })
        .collect();
    assert!(writes.len() > 1, "nothing was on its way: {writes:?}");
    // Cut in order: everything before this byte is on the disk, nothing after it. A page is looked at around its edges and at
    // every so many bytes, so that this ends in time; at all of them with LARDER_EVERY_BYTE=1.
    let every = std::env::var_os("LARDER_EVERY_BYTE").is_some();
    for (place, len) in writes.iter().enumerate() {
        let near = |at: &usize| every || *at < 96 || *at + 96 > *len || at.is_multiple_of(61);
        for torn in (0..*len).filter(near) {
            check(&disk.after_loss(&|other| other < place, torn), ACCEPTED);
        }
    }
    check(&disk.after_loss(&|_| true, 0), ACCEPTED);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// A disk may write in any order what it was not told to sync.
    #[test]
    fn law_7_in_whatever_order_the_disk_wrote(
        survives in prop::collection::vec(any::<bool>(), 64),
        torn in 0..5000_usize,
    ) {
        let disk = disk_with_a_tail(3);
        let lost = disk.after_loss(&|place| survives.get(place).copied().unwrap_or(false), torn);
        check(&lost, 3);
    }
}

#[test]
fn a_full_disk_refuses_and_accepts_again_when_there_is_room() {
    let disk = Disk::default();
    let queue = disk.open().unwrap();
    block_on(async {
        let pushed = queue.push(item(1, "a")).await;
        assert!(matches!(pushed, Pushed::Accepted { .. }), "{pushed:?}");
        disk.is_full.store(true, Ordering::SeqCst);
        // The second finds the file closed.
        for _ in 0..2 {
            let pushed = queue.push(item(2, "a")).await;
            assert!(matches!(pushed, Pushed::Unavailable { .. }), "{pushed:?}");
        }
        disk.is_full.store(false, Ordering::SeqCst);
        // Which of the two it is, is for the disk to say; it is accepted now.
        let pushed = queue.push(item(2, "a")).await;
        assert!(
            matches!(
                pushed,
                Pushed::Accepted { .. }
                    | Pushed::Known(Known {
                        state: State::Pending,
                        ..
                    })
            ),
            "{pushed:?}"
        );
        assert_eq!(holds(&queue).await, ["a is 1", "a is 2"]);
        let newest = queue.newest(&resource("a")).await.unwrap().unwrap();
        assert_eq!(&newest.record[..], b"a is 2");
    });
}

#[test]
fn what_cannot_be_synced_is_not_settled_either() {
    let disk = Disk::default();
    let queue = disk.open().unwrap();
    block_on(async {
        queue.push(item(1, "a")).await;
        let found = queue.scan(0, 0, 10).await.unwrap();
        disk.is_broken.store(true, Ordering::SeqCst);
        let settled = queue.settle(0, vec![settlement(&found[0], Ok(()))]).await;
        assert!(settled.is_err());
        disk.is_broken.store(false, Ordering::SeqCst);
        // Said again, it is done, whatever became of the first.
        let settled = queue.settle(0, vec![settlement(&found[0], Ok(()))]).await;
        settled.unwrap();
        let known = queue.find(&found[0].id).await.unwrap().unwrap();
        assert!(matches!(known.state, State::Applied { .. }), "{known:?}");
    });
}

#[test]
fn all_that_wait_are_synced_at_once() {
    let disk = Disk::default();
    let queue = disk.open().unwrap();
    block_on(async {
        queue.push(item(0, "a")).await;
        let before = disk.syncs.load(Ordering::SeqCst);
        let all = (1..=200).map(|number| queue.push(item(number, "a")));
        for pushed in futures_util::future::join_all(all).await {
            assert!(matches!(pushed, Pushed::Accepted { .. }), "{pushed:?}");
        }
        let syncs = disk.syncs.load(Ordering::SeqCst) - before;
        assert!(syncs < 100, "{syncs} for 200 changes");
    });
}
