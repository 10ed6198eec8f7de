//! The binary: parse, wire, run. Knows nothing of how anything works.

/// A request that misses the memory tier allocates some dozens of times, on whichever core it runs, and frees on
/// another: this allocator is made for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    larder::cli::main()
}
