//! Starts the process: TLS provider, arguments, runtime, exit code. Everything else is in the library.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    firn::heap::keep_little();
    // Two of rustls' providers are linked in by dependencies; without a choice made here the first TLS handshake panics.
    // An error means that one is chosen already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = firn::cli::Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("error: can't start the runtime: {e}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(Box::pin(firn::cli::run(cli))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit_code()
        }
    }
}
