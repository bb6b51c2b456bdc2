//! What of a training session has to be kept while it is interrupted.

use super::{Session, ShrinkError, Trainable, Trained};
use briquette_core::{Clock, KeptUnits};
use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::prelude::*;
use burn::tensor::backend::AutodiffBackend;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};

/// A session's position in its schedules and all that its methods hold on the host. Its tensors are those of
/// [`Session::parts`], which burn's recorders save.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Optimizer steps done.
    pub step: usize,
    /// Counters of the methods.
    pub counters: Vec<f64>,
    /// What the observers of static ranges have taken in, by layer name.
    pub observers: BTreeMap<String, Value>,
    /// How sensitive blocks are, by the beginning of their layers' names.
    pub sensitivities: BTreeMap<String, f64>,
    /// The units that were kept of groups that had lost the others for good.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<KeptUnits>,
}

/// A saved session that does not belong to this model and recipe.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResumeError {
    /// Another number of parameters, or another shape.
    #[error("the saved parameters are not those of this model: {0}")]
    Parameters(String),
    /// The methods hold something else.
    #[error("the saved state is not that of this recipe: {0}")]
    State(String),
    /// What had been removed by then cannot be removed here.
    #[error("the saved model is narrower: {0}")]
    Shrink(#[from] ShrinkError),
}

impl<B: AutodiffBackend, M: Trainable<B>> Session<B, M> {
    /// What has to be kept beside the tensors of [`parts`](Self::parts).
    pub fn position(&self) -> Position {
        let observed = |i: &super::Input| Some((i.site.name.clone(), i.observer.as_ref()?.save()));
        Position {
            step: match self.clock {
                Clock::Step(n) => n,
                Clock::Finished => 0,
            },
            counters: self.parts().state.counters().to_vec(),
            observers: self.inputs.values().filter_map(observed).collect(),
            sensitivities: self.sensitivities.clone(),
            kept: self.kept.clone(),
        }
    }

    /// Goes on from a saved position with saved tensors. On the CPU all that follows is what it would have been
    /// without the interruption, bit for bit.
    ///
    /// Parameters take over the identities that they have in `record`, so that an optimizer's record goes with
    /// them.
    ///
    /// # Errors
    /// When either is of another model or recipe; the session is then as before, except that units are removed that
    /// the position says had been.
    pub fn resume(
        &mut self,
        record: <Trained<B, M> as Module<B>>::Record,
        position: &Position,
    ) -> Result<(), ResumeError> {
        if self.kept.is_empty() && !position.kept.is_empty() {
            self.keep_units(&position.kept)?;
        }
        if self.kept != position.kept {
            return Err(ResumeError::State("other units were removed".into()));
        }
        let own = self.parts().state.clone().into_record();
        let lengths = [(&own.learned, &record.state.learned), (&own.buffers, &record.state.buffers)];
        if lengths.iter().any(|(own, saved)| own.len() != saved.len()) {
            return Err(ResumeError::State("it holds another number of tensors".into()));
        }
        let mut trained = self.copy_parts().load_record(record);
        let (before, after) = (identities(self.parts()), identities(&trained));
        same_shapes(&before, &after)?;
        if !trained.state.restore_counters(&position.counters) {
            let text =
                format!("{} counters, not {}", position.counters.len(), self.parts().state.counters().len());
            return Err(ResumeError::State(text));
        }
        self.restore_observers(position)?;
        let ids: HashMap<ParamId, ParamId> = before.iter().zip(&after).map(|(b, a)| (b.0, a.0)).collect();
        let chains = std::mem::take(&mut self.chains);
        self.chains = chains.into_iter().map(|(id, c)| (ids.get(&id).copied().unwrap_or(id), c)).collect();
        self.sensitivities = position.sensitivities.clone();
        self.clock = Clock::Step(position.step);
        self.set_parts(trained);
        Ok(())
    }

    fn restore_observers(&mut self, position: &Position) -> Result<(), ResumeError> {
        for input in self.inputs.values() {
            let Some(observer) = &input.observer else { continue };
            let name = &input.site.name;
            let saved = position.observers.get(name);
            if !saved.is_some_and(|saved| observer.restore(saved)) {
                return Err(ResumeError::State(format!("nothing fits the observer of {name}")));
            }
        }
        Ok(())
    }
}

pub(super) type Identity = (ParamId, Vec<usize>);

/// Identity and shape of every parameter, in model order.
pub(super) fn identities<B: Backend, M: Module<B>>(module: &M) -> Vec<Identity> {
    struct Collect(Vec<Identity>);
    impl<B: Backend> ModuleVisitor<B> for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            self.0.push((param.id, param.lazy_shape().to_vec()));
        }
    }
    let mut collect = Collect(Vec::new());
    module.visit(&mut collect);
    collect.0
}

fn same_shapes(before: &[Identity], after: &[Identity]) -> Result<(), ResumeError> {
    if before.len() != after.len() {
        return Err(ResumeError::Parameters(format!("{} of them, not {}", after.len(), before.len())));
    }
    let differing = before.iter().zip(after).position(|(b, a)| b.1 != a.1);
    match differing {
        Some(n) => {
            let (b, a) = (&before[n].1, &after[n].1);
            Err(ResumeError::Parameters(format!("parameter {n} is {a:?}, not {b:?}")))
        }
        None => Ok(()),
    }
}
