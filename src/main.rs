//! The program: allocator, command line, exit code.

mod cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    remora::memory::collect_with(collect);
    cli::main()
}

#[expect(
    unsafe_code,
    reason = "the allocator's crate has no safe form of this; it takes a flag and touches only what is free"
)]
fn collect() {
    // SAFETY: mi_collect may be called at any time, from any thread, and works on that thread's own heap.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
