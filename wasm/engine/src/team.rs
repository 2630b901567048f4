//! The threads that execute a step together. All of them run the same program in lockstep: a kernel
//! divides its work into items by [`Team::share`], which ends at a barrier, so that the next kernel finds
//! everything done. Which thread computes an item is left to chance; what it computes is not.

use core::cell::Cell;
use core::marker::PhantomData;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};

#[cfg(not(target_family = "wasm"))]
use crate::pool::PoolState;

/// How often a thread looks whether the others have arrived before it sleeps: some 50 microseconds,
/// several times as long as most regions take.
const SPINS: u32 = 40_000;

/// What the threads of a team share. All zeros at the beginning. `src/backend/wasm/worker_team.ts` sets
/// `failed`, the third word.
#[repr(C, align(64))]
#[derive(Default)]
pub struct TeamState {
    /// Goes up by one when all have arrived.
    generation: AtomicU32,
    /// Threads that sleep until it does.
    sleepers: AtomicU32,
    /// Not 0: a thread is lost, the others must not wait for it.
    failed: AtomicU32,
    counters: Counters,
}

/// Apart from what waiting threads look at all the time: on a cache line of their own.
#[repr(C, align(64))]
#[derive(Default)]
struct Counters {
    /// Threads at the barrier.
    arrived: AtomicU32,
    /// The next item of the region at hand and of the one after it, in turn.
    next: [AtomicU32; 2],
}

/// A thread's place in its team.
pub struct Team<'a> {
    state: Option<&'a TeamState>,
    thread: usize,
    threads: usize,
    /// Which of the two counters this region uses; on a pool, how many regions lie behind.
    region: Cell<usize>,
    /// Threads of a pool: they share by it instead.
    #[cfg(not(target_family = "wasm"))]
    pool: Option<&'a PoolState>,
}

impl<'a> Team<'a> {
    /// The only thread.
    pub fn alone() -> Self {
        Self {
            state: None,
            thread: 0,
            threads: 1,
            region: Cell::new(0),
            #[cfg(not(target_family = "wasm"))]
            pool: None,
        }
    }

    /// Thread number `thread` of at most `threads` that a pool may send.
    #[cfg(not(target_family = "wasm"))]
    pub fn of_pool(pool: &'a PoolState, thread: usize, threads: usize) -> Self {
        Self { thread, threads, pool: Some(pool), ..Self::alone() }
    }

    /// Thread number `thread` of `threads`, each of which makes its own from the same state.
    pub fn new(state: &'a TeamState, thread: usize, threads: usize) -> Self {
        // Regions and barriers alternate, also from one program to the next.
        let region = state.generation.load(Ordering::Acquire) as usize % 2;
        Self {
            state: (threads > 1).then_some(state),
            thread,
            threads,
            region: Cell::new(region),
            #[cfg(not(target_family = "wasm"))]
            pool: None,
        }
    }

    /// This thread's number, from 0 on.
    pub fn thread(&self) -> usize {
        self.thread
    }

    /// How many there are.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Gives out the items 0 ... count in runs of at most `grain`, each to one thread, and returns when
    /// all are done. Every thread must call it with the same numbers.
    pub fn share(&self, count: usize, grain: usize, mut work: impl FnMut(Range<usize>)) {
        #[cfg(not(target_family = "wasm"))]
        if let Some(pool) = self.pool {
            return pool.share(&self.region, count, grain, work);
        }
        let Some(state) = self.state else {
            if count > 0 {
                work(0..count);
            }
            return;
        };
        let next = &state.counters.next[self.region.get()];
        loop {
            let begin = next.fetch_add(grain as u32, Ordering::Relaxed) as usize;
            if begin >= count {
                break;
            }
            work(begin..count.min(begin + grain));
        }
        self.wait_for_all(state);
    }

    /// One thread does the work, all return when it is done.
    pub fn once(&self, mut work: impl FnMut()) {
        self.share(1, 1, |_| work());
    }

    fn wait_for_all(&self, state: &TeamState) {
        let generation = state.generation.load(Ordering::Acquire);
        let following = 1 - self.region.get();
        self.region.set(following);
        if state.counters.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.threads as u32 {
            // Nobody uses the other counter: it is the last region's, which all have left.
            state.counters.next[following].store(0, Ordering::Relaxed);
            state.counters.arrived.store(0, Ordering::Relaxed);
            state.generation.store(generation.wrapping_add(1), Ordering::SeqCst);
            if state.sleepers.load(Ordering::SeqCst) > 0 {
                wake(&state.generation);
            }
            return;
        }
        let arrived = || state.generation.load(Ordering::Acquire) != generation;
        let mut spins = 0;
        while !arrived() {
            if spins < SPINS {
                spins += 1;
                core::hint::spin_loop();
            } else {
                assert_eq!(state.failed.load(Ordering::Relaxed), 0);
                state.sleepers.fetch_add(1, Ordering::SeqCst);
                sleep(&state.generation, generation);
                state.sleepers.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }
}

// JavaScript's Atomics.wait and notify on the word, see `src/backend/wasm/worker_team.ts`. The instructions
// memory.atomic.wait32 and notify would do as well, but for V8 before 12: its first compiler, which runs a
// function until the optimized code is ready, traps on the wait.
#[cfg(all(target_family = "wasm", target_feature = "atomics"))]
#[link(wasm_import_module = "env")]
extern "C" {
    #[link_name = "sleep"]
    fn import_sleep(word: *const AtomicU32, while_it_is: u32);
    #[link_name = "wake"]
    fn import_wake(word: *const AtomicU32);
}

/// Sleeps for a while or until woken, unless the word has changed already.
#[cfg(all(target_family = "wasm", target_feature = "atomics"))]
pub(crate) fn sleep(word: &AtomicU32, while_it_is: u32) {
    // SAFETY: the functions touch nothing but the word.
    unsafe { import_sleep(word, while_it_is) };
}

#[cfg(all(target_family = "wasm", target_feature = "atomics"))]
fn wake(word: &AtomicU32) {
    // SAFETY: as above.
    unsafe { import_wake(word) };
}

/// A module without atomics has one thread, which never waits.
#[cfg(all(target_family = "wasm", not(target_feature = "atomics")))]
pub(crate) fn sleep(_: &AtomicU32, _: u32) {}

#[cfg(not(target_family = "wasm"))]
pub(crate) fn sleep(_: &AtomicU32, _: u32) {
    std::thread::yield_now();
}

#[cfg(not(all(target_family = "wasm", target_feature = "atomics")))]
fn wake(_: &AtomicU32) {}

/// A buffer that the threads of a team fill together, each its own part.
pub struct Shared<'a, T> {
    start: *mut T,
    length: usize,
    buffer: PhantomData<&'a mut [T]>,
}

impl<T> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    /// A buffer that one thread has.
    pub fn new(buffer: &'a mut [T]) -> Self {
        Self { start: buffer.as_mut_ptr(), length: buffer.len(), buffer: PhantomData }
    }

    /// A buffer that every thread of a team makes of the same memory.
    ///
    /// # Safety
    /// `start` must point to `length` elements that live for 'a and that nobody but the team touches.
    pub unsafe fn from_raw(start: *mut T, length: usize) -> Self {
        Self { start, length, buffer: PhantomData }
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The buffer from element `begin` on.
    ///
    /// # Panics
    /// If it is shorter.
    pub fn from(&self, begin: usize) -> Self {
        assert!(begin <= self.length);
        // SAFETY: within the buffer.
        unsafe { Self::from_raw(self.start.add(begin), self.length - begin) }
    }

    /// The same memory as elements of another type.
    ///
    /// # Safety
    /// It must be aligned for them and hold as many, and any bits must make one.
    pub unsafe fn cast<U>(&self, length: usize) -> Shared<'a, U> {
        debug_assert!(length * size_of::<U>() <= self.length * size_of::<T>());
        Shared::from_raw(self.start as *mut U, length)
    }

    /// A part to write.
    ///
    /// # Safety
    /// Until the next barrier no other thread may touch these elements, nor this thread by another way.
    ///
    /// # Panics
    /// If the range does not lie within the buffer.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    pub unsafe fn write(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.length);
        core::slice::from_raw_parts_mut(self.start.add(range.start), range.end - range.start)
    }

    /// A part to read.
    ///
    /// # Safety
    /// Until the next barrier nobody may write to these elements.
    ///
    /// # Panics
    /// If the range does not lie within the buffer.
    #[inline(always)]
    pub unsafe fn read(&self, range: Range<usize>) -> &'a [T] {
        self.write(range)
    }

    /// The whole buffer to read.
    ///
    /// # Safety
    /// As for [`Shared::read`].
    pub unsafe fn read_all(&self) -> &'a [T] {
        self.read(0..self.length)
    }
}
