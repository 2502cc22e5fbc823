//! The command `flotilla`.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
