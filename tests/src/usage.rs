//! What a process uses of the machine, as the kernel counts it. Knows nothing of Larder.

use std::fs;

/// One reading of `/proc/PID`.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Resident memory, in bytes.
    pub resident: u64,
    /// Open descriptors.
    pub descriptors: usize,
}

impl Usage {
    /// Reads it now.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
        let kibibytes: u64 = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok())
            .expect("the kernel says how much is resident");
        let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process is ours");
        Self {
            resident: kibibytes * 1024,
            descriptors: open.count(),
        }
    }

    /// Resident memory in MiB, for people.
    pub fn mebibytes(&self) -> f64 {
        self.resident as f64 / f64::from(1 << 20)
    }
}
