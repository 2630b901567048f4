//! A team on a thread pool that promises nothing: its threads may come late, one after the other, or not
//! at all (onnxruntime's pool, which other sessions' steps may keep busy). A region ends when its items
//! are done, not when all threads have arrived: whoever comes late passes over what is done. So nobody
//! waits but for a thread that is at work.

use core::cell::Cell;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

/// How often a thread looks whether the others are done before it lets others have the core.
const SPINS: u32 = 20_000;

/// What the threads of one kernel call share. All zeros at the beginning.
#[repr(C, align(64))]
#[derive(Default)]
pub struct PoolState {
    /// The region at hand in the upper half, its next item in the lower one.
    next: AtomicU64,
    done: Done,
}

/// Items of the region at hand that are done: apart from what waiting threads look at all the time.
#[repr(C, align(64))]
#[derive(Default)]
struct Done(AtomicU64);

impl PoolState {
    /// As [`Team::share`](crate::team::Team::share). `region` counts the regions that this thread has passed.
    pub fn share(
        &self,
        region: &Cell<usize>,
        count: usize,
        grain: usize,
        mut work: impl FnMut(Range<usize>),
    ) {
        if count == 0 {
            return;
        }
        assert!(count + grain <= u32::MAX as usize);
        let here = region.get() as u64;
        region.set(region.get() + 1);
        let is_over = |state: u64| state >> 32 != here;
        loop {
            let state = self.next.load(Ordering::Acquire);
            if is_over(state) {
                return;
            }
            let begin = state as u32 as usize;
            if begin >= count {
                break;
            }
            let end = count.min(begin + grain);
            let taken = here << 32 | end as u64;
            let order = Ordering::Relaxed;
            if self.next.compare_exchange_weak(state, taken, order, order).is_err() {
                continue;
            }
            work(begin..end);
            let items = (end - begin) as u64;
            if self.done.0.fetch_add(items, Ordering::AcqRel) + items == count as u64 {
                self.done.0.store(0, Ordering::Relaxed);
                self.next.store((here + 1) << 32, Ordering::Release);
                return;
            }
        }
        let mut spins = 0;
        while !is_over(self.next.load(Ordering::Acquire)) {
            if spins < SPINS {
                spins += 1;
                core::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }
}
