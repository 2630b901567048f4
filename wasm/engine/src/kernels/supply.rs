//! Experts on demand: with less memory than a model needs, experts are fetched when the router chooses
//! them. The threads of a team say what is missing, go on with what is there, and sleep until the host has
//! read the rest (`src/backend/wasm/expert_supply.ts`), which they pack by themselves.

use core::mem::size_of;
use core::slice::from_raw_parts;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::experts::{ExpertPlace, ExpertsShape};
use super::matrix::{pack, pack_scales, Format, GROUP};
use crate::team::{sleep, Shared, Team};

/// Read experts begin at multiples of this, and so do the tensors that each is made of, bytes.
const ALIGNMENT: usize = 64;
/// Groups of rows that a thread packs at a time.
const GROUPS_AT_ONCE: usize = 16;

/// What a team and its host share. All zeros at the beginning but for what the host writes; the list of
/// experts asked for follows it.
#[repr(C, align(64))]
#[derive(Default)]
pub struct SupplyState {
    /// How often the team has asked.
    asked: AtomicU32,
    /// How often the host has answered; it wakes those who sleep on it.
    answered: AtomicU32,
    /// The node that asks.
    layer: AtomicU32,
    /// How many experts are missing.
    count: AtomicU32,
    /// How many of them, the first ones, have been read. May be 0 while all places are in use.
    arrived: AtomicU32,
    padding: u32,
    /// Goes up with every round of computing. Places last used at this time are in use.
    clock: AtomicU64,
    /// Experts that were used, and how many of them had to be fetched.
    uses: AtomicU64,
    misses: AtomicU64,
    /// Address of the experts that have been read, written by the host.
    staging: AtomicU64,
}

impl SupplyState {
    /// Bytes of the state and a list of `experts`.
    pub fn bytes(experts: usize) -> usize {
        size_of::<Self>() + experts * size_of::<u32>()
    }
}

/// How a node gets experts that are not in memory.
pub struct Supply<'a> {
    pub state: &'a SupplyState,
    /// As many as the node holds.
    pub list: Shared<'a, u32>,
    /// Number of the node.
    pub layer: u32,
}

/// The tensors of an expert as the host reads them, one after the other: levels and scales of gate_up, of
/// down. Offsets and lengths.
fn layout(shape: &ExpertsShape) -> ([(usize, usize); 4], usize) {
    let ExpertsShape { hidden, width, format, .. } = *shape;
    let mut end = 0;
    let mut place = |bytes: usize| {
        let start = end;
        end = (end + bytes).next_multiple_of(ALIGNMENT);
        (start, bytes)
    };
    let places = [
        place(2 * width * format.file_row_bytes(hidden)),
        place(2 * width * format.file_scale_bytes(hidden)),
        place(hidden * format.file_row_bytes(width)),
        place(hidden * format.file_scale_bytes(width)),
    ];
    (places, end)
}

/// Bytes of an expert as the host reads it.
pub fn staged_bytes(shape: &ExpertsShape) -> usize {
    layout(shape).1
}

impl Supply<'_> {
    /// Begins a layer: the first `ready` of the used experts are there.
    pub fn begin(&self, team: &Team, places: &[ExpertPlace], used: &[u32], ready: usize) {
        team.once(|| {
            let missing = used.len() - ready;
            self.state.uses.fetch_add(used.len() as u64, Ordering::Relaxed);
            self.state.misses.fetch_add(missing as u64, Ordering::Relaxed);
            self.mark(places, &used[..ready]);
        });
    }

    /// A new round begins with these experts.
    fn mark(&self, places: &[ExpertPlace], experts: &[u32]) {
        let now = self.state.clock.fetch_add(1, Ordering::Relaxed) + 1;
        for expert in experts {
            places[*expert as usize].used.store(now, Ordering::Relaxed);
        }
    }

    /// Asks for experts, if there are any, and does not wait.
    pub fn ask(&self, team: &Team, missing: &[u32]) {
        if missing.is_empty() || team.thread() != 0 {
            return;
        }
        // SAFETY: the host reads the list only between being asked and answering.
        unsafe { self.list.write(0..missing.len()).copy_from_slice(missing) };
        self.state.layer.store(self.layer, Ordering::Relaxed);
        self.state.count.store(missing.len() as u32, Ordering::Relaxed);
        self.state.asked.fetch_add(1, Ordering::Release);
        ask_host();
    }

    /// Waits for what was asked for and packs it. Returns how many came, the first ones.
    pub fn receive(
        &self,
        team: &Team,
        shape: &ExpertsShape,
        places: &[ExpertPlace],
        missing: &[u32],
    ) -> usize {
        let state = self.state;
        team.once(|| {
            let asked = state.asked.load(Ordering::Relaxed);
            loop {
                let answered = state.answered.load(Ordering::Acquire);
                if answered == asked {
                    break;
                }
                sleep(&state.answered, answered);
            }
        });
        let arrived = &missing[..state.arrived.load(Ordering::Relaxed) as usize];
        let ExpertsShape { hidden, width, format, .. } = *shape;
        let (tensors, bytes) = layout(shape);
        for (i, expert) in arrived.iter().enumerate() {
            let staging = state.staging.load(Ordering::Relaxed) as usize + i * bytes;
            // SAFETY: the host has written an expert there.
            let read = tensors
                .map(|(at, length)| unsafe { from_raw_parts((staging + at) as *const u8, length) });
            let ExpertPlace { gate_up, down, .. } = &places[*expert as usize];
            let [gate_up_levels, gate_up_scales, down_levels, down_scales] = read;
            let pack = |place: &AtomicU64, levels, scales, size| {
                pack_shared(team, format, levels, scales, size, place.load(Ordering::Relaxed))
            };
            pack(gate_up, gate_up_levels, gate_up_scales, (2 * width, hidden));
            pack(down, down_levels, down_scales, (hidden, width));
        }
        // Ends at a barrier: nobody may ask again before all have seen what arrived.
        team.once(|| self.mark(places, arrived));
        arrived.len()
    }
}

/// Packs a matrix to an address, divided among the threads of a team.
fn pack_shared(
    team: &Team,
    format: Format,
    levels: &[u8],
    scales: &[u8],
    (rows, columns): (usize, usize),
    address: u64,
) {
    let (row_bytes, scale_bytes) =
        (format.file_row_bytes(columns), format.file_scale_bytes(columns));
    let group_bytes = format.group_bytes(columns);
    // SAFETY: the host has left as much room there, which nobody uses.
    let packed = unsafe {
        Shared::<u8>::from_raw(address as usize as *mut u8, format.packed_bytes(rows, columns))
    };
    team.share(rows.div_ceil(GROUP), GROUPS_AT_ONCE, |groups| {
        let part = groups.start * GROUP..rows.min(groups.end * GROUP);
        // SAFETY: each group is one item's.
        let into = unsafe { packed.write(groups.start * group_bytes..groups.end * group_bytes) };
        let levels = &levels[part.start * row_bytes..part.end * row_bytes];
        pack(format, levels, part.len(), columns, into);
        if format.is_quantized() {
            let scales = &scales[part.start * scale_bytes..part.end * scale_bytes];
            pack_scales(format, scales, part.len(), columns, into);
        }
    });
}

#[cfg(all(target_family = "wasm", target_feature = "atomics"))]
#[link(wasm_import_module = "env")]
extern "C" {
    #[link_name = "ask"]
    fn import_ask();
}

/// Tells the host that experts are wanted.
#[cfg(all(target_family = "wasm", target_feature = "atomics"))]
fn ask_host() {
    // SAFETY: the function only sends a message.
    unsafe { import_ask() };
}

/// Natively the host looks by itself.
#[cfg(not(all(target_family = "wasm", target_feature = "atomics")))]
fn ask_host() {}
