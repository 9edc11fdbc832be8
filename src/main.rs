//! The program: allocator, command line, exit code.

mod cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    // Each thread would touch only small parts of many pages of 2 MiB: the process would start with 23 MB instead of 13, and
    // memory per connection would grow in steps. An error is ignored: such a system has no huge pages.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    remora::base::memory::collect_with(collect);
    cli::main()
}

#[expect(
    unsafe_code,
    reason = "the allocator's crate has no safe wrapper; mi_collect takes a flag and touches only free memory"
)]
fn collect() {
    // SAFETY: mi_collect may be called at any time from any thread, and works on the calling thread's heap.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
