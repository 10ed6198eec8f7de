//! Bytes → compiled component, through the cache of compiled code.

/// Which of the contract's interfaces a component exports. Others are ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exports {
    /// `loader`
    pub loader: bool,
    /// `blocking-loader`
    pub blocking_loader: bool,
    /// `batch-loader`
    pub batch_loader: bool,
    /// `key-policy`
    pub key_policy: bool,
    /// `writer`
    pub writer: bool,
    /// `change-feed`
    pub change_feed: bool,
    /// `metadata`
    pub metadata: bool,
    /// `lifecycle`
    pub lifecycle: bool,
}

/// A component that was compiled (or mapped from the cache) and judged: it can be instantiated by this engine.
#[derive(Clone)]
pub struct Compiled {
    /// BLAKE3 of the component's bytes, in hex.
    pub digest: String,
    /// Bytes of the component.
    pub size: u64,
    /// What it can do.
    pub exports: Exports,
    /// What it asks of the host, e.g. `wasi:http/handler@0.3.0`, in the component's order.
    pub imports: Vec<String>,
}
