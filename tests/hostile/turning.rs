//! A name that turns around between two look-ups, and the place where it must not lead. Must not know who asks.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;

use larder_tests::larder::repository;
use tempfile::TempDir;

/// The name.
pub(crate) const NAME: &str = "turning.test";
/// Where it may lead.
pub(crate) const GRANTED: &str = "127.0.0.1";
/// Where it leads after the next look-up.
pub(crate) const FORBIDDEN: &str = "127.0.0.2";

/// A resolver to be loaded into a server, and who listens where the name must not lead.
pub(crate) struct Turning {
    directory: TempDir,
    forbidden: TcpListener,
}

impl Turning {
    /// Makes the resolver, and listens on this port of the forbidden address.
    ///
    /// # Panics
    /// When there is no C compiler, though Rust needs one to link.
    pub(crate) fn at(port: u16) -> Self {
        let address: SocketAddr = format!("{FORBIDDEN}:{port}").parse().expect("an address");
        let forbidden = TcpListener::bind(address).expect("all of 127.0.0.0/8 is this machine's");
        forbidden
            .set_nonblocking(true)
            .expect("a listener can be made non-blocking");
        let turning = Self {
            directory: tempfile::tempdir().expect("a temporary directory"),
            forbidden,
        };
        let made = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror"])
            .arg(format!("-DTURNING_NAME=\"{NAME}\""))
            .arg("-o")
            .arg(turning.library())
            .arg(repository().join("tests/hostile/turning.c"))
            .arg("-ldl")
            .output()
            .expect("there is a C compiler");
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "turning.c: {said}");
        turning
    }

    /// What `LD_PRELOAD` of the server is.
    pub(crate) fn library(&self) -> PathBuf {
        self.directory.path().join("turning.so")
    }

    /// Somebody went where the name must not lead.
    pub(crate) fn reached(&self) -> bool {
        self.forbidden.accept().is_ok()
    }
}
