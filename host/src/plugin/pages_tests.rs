//! What is let go of and what is not; and that who is let go of runs as before.

use super::super::testing::{ask, found, guest};
use super::super::{Egress, Engine, Limits, Secrets, Spec, Worker};
use super::*;
use crate::config::PluginLimits;

/// The program is file 7, an image file 9.
const SMAPS: &str = "\
1000-3000 r--p 00000000 fe:00 7                    /usr/bin/larder with a name
Rss:                   8 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd mr mw me
3000-9000 r-xp 00002000 fe:00 7                    /usr/bin/larder
Anonymous:             0 kB
Swap:                  0 kB
9000-a000 r--p 00008000 fe:00 7                    /usr/bin/larder
Anonymous:             4 kB
Swap:                  0 kB
what nobody understands is not of the mapping before
Anonymous:             0 kB
a000-b000 rw-p 00009000 fe:00 7                    /usr/bin/larder
Anonymous:             0 kB
Swap:                  0 kB
c000-d000 r--p 0000a000 fe:00 7                    /usr/bin/larder
Anonymous:             0 kB
Swap:                  4 kB
d000-e000 r--p 0000a000 fe:00 7                    /usr/bin/larder
Anonymous:             0 kB
e000-f000 r--s 0000a000 fe:00 7                    /usr/bin/larder
Anonymous:             0 kB
Swap:                  0 kB
30000-31000 r--p 00000000 fe:00 9                  /compiled/a.cwasm
Anonymous:             0 kB
Swap:                  0 kB
31000-34000 r-xp 00001000 fe:00 9                  /compiled/a.cwasm
Anonymous:             0 kB
Swap:                  0 kB
34000-35000 rw-p 00004000 fe:00 9                  /compiled/a.cwasm
Anonymous:             0 kB
Swap:                  0 kB
40000-41000 r--p 00000000 fe:00 9                  /compiled/a.cwasm
Anonymous:             0 kB
Swap:                  0 kB
50000-51000 r-xp 00000000 00:00 0
Anonymous:             0 kB
Swap:                  0 kB
60000-61000 r--p 00000000 fe:00 7                  /usr/bin/larder
Anonymous:             0 kB
Swap:                  0 kB
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
";

fn starts(program: &[usize], images: &[Range<usize>]) -> Vec<usize> {
    let all = mappings(SMAPS.as_bytes()).unwrap();
    let starts = ours(all, program, images).map(|mapping| mapping.addresses.start);
    starts.collect()
}

#[test]
fn only_what_stays_and_what_nobody_ever_wrote_to_is_let_go_of() {
    // Not what a backtrace has mapped.
    assert_eq!(starts(&[0x3abc, 0x1000], &[]), [0x1000, 0x3000]);
    // Not what was relocated, is written to, was swapped out, is not told of, or is shared.
    assert!(starts(&[0x9000, 0xa000, 0xc000, 0xd000, 0xe000], &[]).is_empty());
    // Of compiled code what is held and fixed: not the linear memory of an instance, nor a version that nobody holds.
    let image = 0x30000..0x34800;
    assert_eq!(
        starts(&[], std::slice::from_ref(&image)),
        [0x30000, 0x31000]
    );
    // What was compiled into memory has no file to come back from, wherever it lies.
    assert_eq!(starts(&[0x50000], &[image, 0x50000..0x51000]).len(), 2);
}

/// KiB in memory of what is mapped within a range.
pub(in super::super) fn resident(within: &Range<usize>) -> u64 {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut counts, mut sum) = (false, 0);
    for line in smaps.lines() {
        let first = line.split_ascii_whitespace().next().unwrap();
        if let Some(rss) = line.strip_prefix("Rss:").filter(|_| counts) {
            let kibibytes = rss.trim().strip_suffix(" kB").unwrap();
            sum += kibibytes.parse::<u64>().unwrap();
        } else if !first.ends_with(':') {
            let start = first.split('-').next().unwrap_or_default();
            counts = within.contains(&usize::from_str_radix(start, 16).unwrap());
        }
    }
    sum
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_let_go_of_takes_no_memory_and_answers_as_before() {
    let storage = tempfile::tempdir().unwrap();
    // Of this test alone: nobody else runs code of it.
    let engine = Engine::new(storage.path(), Worker::Here).unwrap();
    let compiled = engine.compile("echo", guest("echo")).await.unwrap();
    let spec = Spec {
        name: "echo".to_owned(),
        compiled: Arc::clone(&compiled),
        settings: r#"{"body": "as before"}"#.to_owned(),
        secrets: Secrets::default(),
        egress: Egress::denied("echo"),
        limits: Limits::resolve(&PluginLimits::default(), &compiled.exports),
    };
    let launched = engine.launch(spec).await.unwrap();
    let loader = launched.runtime.loader().unwrap();
    let before = found(ask(&loader, "x").await).body;
    assert_eq!(&*before, b"as before");

    let image = compiled.image();
    assert!(resident(&image) > 0);
    let held = [compiled];
    let given = tokio::task::spawn_blocking(move || give_back(&held));
    let given = given.await.unwrap().unwrap();
    assert_eq!(resident(&image), 0);
    assert!(given > image.len(), "and some of the program: {given}");

    assert_eq!(found(ask(&loader, "x").await).body, before);
    assert!(resident(&image) > 0);
}
