//! The program: allocator, command line, exit code.

mod cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    // The allocator would like pages of 2 MiB, of which each thread touches a little of many: a start of 23 MB instead of 13,
    // and memory per connection that moves in steps. A system without huge pages has nothing to refuse.
    let _ = nix::sys::prctl::set_thp_disable(true);
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
