//! The allocator, set for a process that keeps to a budget: what it frees goes back to the system.

/// From this size on a block is the system's own, and goes back when it is freed. By itself glibc raises the mark to whatever was freed
/// last, up to 32 MiB: after the first large row all large blocks would be cut from heaps that never shrink. Smaller: each buffer
/// of a batch would be mapped anew.
const OWN_BLOCK_BYTES: i32 = 1 << 20;
/// What may lie free at the end of a heap.
const FREE_BYTES: i32 = 16 << 20;

/// To be called before there are threads.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)] // the standard library knows nothing of the allocator's settings
pub fn keep_little() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // A heap a thread, of which there are dozens, would keep what each has freed.
    let heaps = i32::try_from(cores.max(2)).unwrap_or(i32::MAX);
    // SAFETY: only sets numbers of the allocator; no other thread runs yet. One that it refuses stays as it was.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, heaps);
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_BLOCK_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, FREE_BYTES);
    }
}

/// Other allocators are left as they are.
#[cfg(not(target_env = "gnu"))]
pub fn keep_little() {}
