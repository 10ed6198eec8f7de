//! The binary: parse, wire, run. Knows nothing of how anything works.

fn main() -> std::process::ExitCode {
    larder::cli::main()
}
