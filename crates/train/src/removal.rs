//! What an optimizer remembers of parameters that lose entries.

use crate::optimizer::{Moments, Records, Rule};
use briquette_composer::Removals;
use briquette_nn::{AxisCut, cut};
use burn::optim::record::{AdaptorRecord, AdaptorRecordV1};
use burn::prelude::*;
use burn::tensor::backend::AutodiffBackend;

/// The records after a removal: moments lose the entries that their parameters lost; those of learned entries that were
/// replaced begin anew.
pub(crate) fn narrowed<B: AutodiffBackend>(mut records: Records<B>, removals: &Removals) -> Records<B> {
    records.retain(|id, _| !removals.replaced.contains(id));
    for (id, cuts) in &removals.cuts {
        let Some(AdaptorRecord::V1(past)) = records.remove(id) else { continue };
        if let Some(past) = narrowed_record(past, cuts) {
            records.insert(*id, AdaptorRecord::V1(past));
        }
    }
    records
}

/// `None` for a rank that no layer has: those moments begin anew.
fn narrowed_record<B: Backend>(
    past: AdaptorRecordV1<Rule, B>,
    cuts: &[AxisCut],
) -> Option<AdaptorRecordV1<Rule, B>> {
    use AdaptorRecordV1 as Past;
    Some(match past {
        Past::Rank1(moments) => Past::Rank1(moments.narrowed(cuts)),
        Past::Rank2(moments) => Past::Rank2(moments.narrowed(cuts)),
        Past::Rank3(moments) => Past::Rank3(moments.narrowed(cuts)),
        Past::Rank4(moments) => Past::Rank4(moments.narrowed(cuts)),
        Past::Rank5(moments) => Past::Rank5(moments.narrowed(cuts)),
        _ => return None,
    })
}

impl<B: Backend, const D: usize> Moments<B, D> {
    fn narrowed(self, cuts: &[AxisCut]) -> Self {
        let (first, second) = (cut(self.first, cuts), self.second.map(|second| cut(second, cuts)));
        Self { first, second, time: self.time }
    }
}
