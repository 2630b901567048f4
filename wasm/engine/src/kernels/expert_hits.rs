//! The hits of a step: its tokens' choices of experts, sorted by expert.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use super::expert_rows::ExpertRows;
use super::experts::ExpertPlace;
use super::matrix::{Format, GROUP};
use super::multiply::{grain_of, StridedMut};
use super::quantize::rows_by_fours;
use super::scratch::{bytes_of, Scratch};
use crate::team::{Shared, Team};

/// Which places [T*K] chose which expert. Every thread has its own, all the same.
pub struct ExpertHits<'a> {
    /// Experts with hits: those in memory by rising index, then the others.
    pub used: &'a mut [u32],
    pub used_count: usize,
    /// [used_count + 1]: where each used expert's hits begin.
    pub starts: &'a mut [u32],
    /// [T*K]: places by used expert, then by rising token.
    pub places: &'a mut [u32],
    /// [T*K]: where in `places` a place is; `u32::MAX` if its expert is not held here.
    pub rank: &'a mut [u32],
    /// [held]: hits of each expert.
    counts: &'a mut [u32],
}

/// Rank of a place whose expert is not held here.
pub const NOT_HELD: u32 = u32::MAX;

impl<'a> ExpertHits<'a> {
    /// Bytes of scratch for each thread.
    pub fn own_bytes(held: usize, hits: usize) -> usize {
        bytes_of::<u32>(held + 1) + 2 * bytes_of::<u32>(hits) + 2 * bytes_of::<u32>(held)
    }

    /// Room for `hits` places and `held` experts; [`ExpertHits::sort`] fills it.
    pub fn take(scratch: &mut Scratch<'a>, team: &Team, held: usize, hits: usize) -> Self {
        Self {
            used: scratch.take_own(held, team),
            used_count: 0,
            starts: scratch.take_own(held + 1, team),
            places: scratch.take_own(hits, team),
            rank: scratch.take_own(hits, team),
            counts: scratch.take_own(held, team),
        }
    }

    /// Sorts what was chosen, of which `experts`, from the `first` on, are held here. Returns how many of
    /// the used ones are in memory.
    pub fn sort(&mut self, first: usize, chosen: &[i32], experts: &[ExpertPlace]) -> usize {
        let local = |expert: i32| {
            let index = (expert as usize).checked_sub(first)?;
            (index < experts.len()).then_some(index)
        };
        self.counts.fill(0);
        for expert in chosen.iter().filter_map(|expert| local(*expert)) {
            self.counts[expert] += 1;
        }
        let here = |expert: usize| experts[expert].gate_up.load(Ordering::Relaxed) != 0;
        let mut ready = 0;
        self.used_count = 0;
        for in_memory in [true, false] {
            for expert in 0..experts.len() {
                if self.counts[expert] > 0 && here(expert) == in_memory {
                    self.used[self.used_count] = expert as u32;
                    self.used_count += 1;
                }
            }
            if in_memory {
                ready = self.used_count;
            }
        }
        self.starts[0] = 0;
        for i in 0..self.used_count {
            let count = &mut self.counts[self.used[i] as usize];
            self.starts[i + 1] = self.starts[i] + *count;
            *count = self.starts[i]; // from here on where the expert's next hit goes
        }
        for (place, expert) in chosen.iter().enumerate() {
            self.rank[place] = NOT_HELD;
            if let Some(expert) = local(*expert) {
                let rank = self.counts[expert];
                self.counts[expert] += 1;
                self.places[rank as usize] = place as u32;
                self.rank[place] = rank;
            }
        }
        ready
    }

    /// The hits whose rows are written together with that of `hit`, if it is their first: four of an
    /// expert's, or one of its last three.
    pub fn run_at(&self, hit: usize) -> Option<Range<usize>> {
        let starts = &self.starts[..self.used_count + 1];
        let next = starts.partition_point(|start| *start as usize <= hit);
        let (begin, end) = (starts[next - 1] as usize, starts[next] as usize);
        let fours_end = begin + rows_by_fours(end - begin);
        if hit >= fours_end {
            Some(hit..hit + 1)
        } else {
            (hit - begin).is_multiple_of(4).then_some(hit..hit + 4)
        }
    }

    /// Multiplies the rows of some of the used experts with their matrices: y [hits, rows].
    #[allow(clippy::too_many_arguments)]
    pub fn multiply<'b>(
        &self,
        team: &Team,
        format: Format,
        used: Range<usize>,
        address_of: impl Fn(usize) -> &'b AtomicU64,
        (rows, columns): (usize, usize),
        x: &ExpertRows,
        y: Shared<f32>,
    ) {
        let groups = rows.div_ceil(GROUP);
        let grain = grain_of(format.group_bytes(columns), used.len() * groups, team);
        let parts = groups.div_ceil(grain);
        team.share(used.len() * parts, 1, |items| {
            for item in items {
                let (i, part) = (used.start + item / parts, item % parts);
                let groups = part * grain..groups.min((part + 1) * grain);
                let hits = self.starts[i] as usize..self.starts[i + 1] as usize;
                let at = hits.start * rows + groups.start * GROUP;
                let mut y = StridedMut { values: y.from(at), stride: rows };
                let address = address_of(self.used[i] as usize);
                // SAFETY: the table holds addresses of such matrices; the rows were written before the
                // barrier.
                unsafe {
                    let matrix = ExpertPlace::matrix(address, format, (rows, columns));
                    x.multiply(&matrix.groups(groups), hits.start, hits.len(), &mut y);
                }
            }
        });
    }
}
