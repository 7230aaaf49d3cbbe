//! Arguments in, exit code out.

fn main() -> std::process::ExitCode {
    lockgate::cli::main()
}
