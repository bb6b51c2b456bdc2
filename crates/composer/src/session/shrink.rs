//! Removing for good what methods have masked.

use super::{Chain, JointLink, Layers, Link, Session};
use briquette_core::{
    Clock, DimensionGroup, GroupCut, KeptPart, KeptUnits, LayerKind, OutputCount, Parameter, Problem,
    Removal, SessionState, Site, UnitMask, canonical_shape, host_floats, stop, to_canonical,
};
use briquette_nn::{AxisCut, Cuts, LayerMut, RemovalError, Removing};
use burn::module::{ModuleVisitor, Param, ParamId};
use burn::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Why masked units cannot be removed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ShrinkError {
    /// A mask that leaves nothing.
    #[error("no unit of `{group}` is left")]
    Nothing {
        /// Name of the group.
        group: String,
    },
    /// A mask for a group that the plan does not cut, or of another length.
    #[error("`{group}` with {units} units is no group that the plan cuts")]
    Unplanned {
        /// Name of the group.
        group: String,
        /// Length of the mask.
        units: usize,
    },
    /// What the group says does not fit the model.
    #[error(transparent)]
    Removal(#[from] RemovalError),
    /// A method that cannot act on what is left of a weight.
    #[error(transparent)]
    Misfit(#[from] Box<Misfit>),
    /// Running statistics that are shared with the user's model, or numbers, that have to change and are out of reach.
    #[error(
        "`{path}` cannot be changed: derive `Compressible` for the model and attach the plan with its layers"
    )]
    OutOfReach {
        /// Their field path.
        path: String,
    },
}

/// A method that cannot act on what is left of a weight.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{layer}: {method} on the {}x{} that pruning leaves: {problem}", .shape[0], .shape[1])]
pub struct Misfit {
    /// The layer.
    pub layer: String,
    /// The method.
    pub method: String,
    /// What is left, `[out, in]`.
    pub shape: [usize; 2],
    /// What is wrong with it.
    pub problem: Problem,
}

/// What was removed, for the artefact.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Removed {
    /// The groups that lost units.
    pub groups: Vec<RemovedUnits>,
    /// Numbers of the model that changed with them, by name: heads of attentions, groups of convolutions.
    pub numbers: BTreeMap<String, usize>,
}

/// What was removed of one group.
#[derive(Debug, Clone, PartialEq)]
pub struct RemovedUnits {
    /// The units that stay.
    pub kept: KeptUnits,
    /// The parameters' axes that became shorter.
    pub axes: Vec<ShorterAxis>,
}

/// An axis that became shorter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShorterAxis {
    /// Name of the parameter.
    pub tensor: String,
    /// The axis, in the layout in which burn holds the parameter.
    pub axis: usize,
    /// Its length before.
    pub of: usize,
    /// Its length now.
    pub kept: usize,
}

impl<B: Backend, M: Module<B>> Session<B, M> {
    /// Whether there are masked units whose masks can no longer change: schedules have run out, and no method
    /// [waits for inputs](Self::needs_inputs).
    pub fn can_shrink(&self) -> bool {
        let mut masking = self.joints.iter().filter(|joint| !self.masks_of(joint).is_empty()).peekable();
        let decided = !self.needs_inputs() && masking.peek().is_some();
        decided && masking.all(|joint| joint.joint.settled(self.clock))
    }

    /// The masks of units that are still there.
    fn masks_of(&self, joint: &JointLink<B>) -> Vec<UnitMask<B>> {
        let mut masks = joint.joint.masks(&self.parts().state);
        masks.retain(|mask| self.kept.iter().all(|kept| kept.group != mask.group));
        masks
    }

    /// What was removed so far, if anything.
    pub fn removed(&self) -> Option<&Removed> {
        self.removed.as_ref()
    }

    /// Removes masked units where [`can_shrink`](Self::can_shrink) says that it can be done, so that everything from
    /// now on is computed by the smaller model; whether it did. For a session without training, or before its first
    /// step; a training session that is under way needs [`shrink`](Self::shrink).
    ///
    /// # Errors
    /// When the model does not fit what the groups say, and the session is as before; or when a later method does not
    /// fit what is left, and it is of no further use.
    pub fn remove_masked(&mut self) -> Result<bool, ShrinkError> {
        match self.can_shrink() {
            true => {
                let kept = self.kept_units()?;
                self.keep_units(&kept).map(|_| true)
            }
            false => Ok(false),
        }
    }

    /// The last word of all masks, and removal of what they leave out.
    pub(super) fn settle(&mut self) -> Result<(), ShrinkError> {
        self.clock = Clock::Finished;
        self.update_joints();
        self.remove_masked().map(drop)
    }

    /// The units that the masks of now keep.
    pub(crate) fn kept_units(&self) -> Result<Vec<KeptUnits>, ShrinkError> {
        let masks = self.joints.iter().flat_map(|joint| self.masks_of(joint));
        masks
            .map(|mask| {
                let values = host_floats(mask.mask);
                let units: Vec<usize> = (0..values.len()).filter(|i| values[*i] > 0.5).collect();
                match units.is_empty() {
                    true => Err(ShrinkError::Nothing { group: mask.group }),
                    false => Ok(KeptUnits { group: mask.group, of: values.len(), units }),
                }
            })
            .collect()
    }

    /// The session's model as removal would make it, float weights as they are; `None` where
    /// [`can_shrink`](Self::can_shrink) says that it cannot be done yet. Nothing changes: for those who have to know
    /// what would fit.
    ///
    /// # Errors
    /// When the model does not fit what the groups say.
    pub fn without_masked(&self) -> Result<Option<M>, ShrinkError> {
        match self.can_shrink() {
            true => Ok(Some(self.narrowed(&self.kept_units()?)?.model)),
            false => Ok(None),
        }
    }

    /// Removes everything else, and the stages that masked it.
    pub(super) fn keep_units(&mut self, kept: &[KeptUnits]) -> Result<Cuts, ShrinkError> {
        let Narrowed { model, removed, removal, removing } = self.narrowed(kept)?;
        let mut trained = self.trained.take().expect("taken out only within this call");
        self.drop_masking(kept);
        let resized = self.resize(&model, &mut trained.state, &removal, removing.cuts());
        trained.model = model;
        self.trained = Some(trained);
        self.cache.borrow_mut().clear();
        self.averaging.clear();
        self.kept = kept.to_vec();
        self.removed = Some(removed);
        resized.map(|()| removing.cuts().clone())
    }

    fn narrowed(&self, kept: &[KeptUnits]) -> Result<Narrowed<M>, ShrinkError> {
        let plan = self.plan.clone();
        let planned = plan.cuts();
        let groups = planned_groups(&planned, kept)?;
        let removal = Removal::new(groups.iter().copied().zip(kept.iter().map(|k| k.units.as_slice())));
        let removing = Removing::new(&self.parts().model, &removal)?;
        self.check_reach(&removal)?;
        let before = numbers(self.layers, &self.parts().model);
        let mut model = self.parts().model.clone();
        change_numbers(self.layers, &mut model, &removing)?;
        let axes = |group: &DimensionGroup| shorter(group, plan.model().parameters.as_slice(), &removal);
        let removed_groups = groups.iter().zip(kept).filter(|(g, k)| k.units.len() < g.units);
        let removed = Removed {
            groups: removed_groups.map(|(g, k)| RemovedUnits { kept: k.clone(), axes: axes(g) }).collect(),
            numbers: changed(&before, numbers(self.layers, &model)),
        };
        if let Some(unshare) = self.unshare {
            model = unshare(&model);
        }
        Ok(Narrowed { model: removing.tensors(model), removed, removal, removing })
    }

    /// Without a walk over the layers numbers are out of reach, and without gradients too nothing tells the session's
    /// statistics from the user's.
    fn check_reach(&self, removal: &Removal) -> Result<(), ShrinkError> {
        let statistics = |path: &&str| path.ends_with(".running_mean") || path.ends_with(".running_var");
        let shared = removal.paths().find(statistics).filter(|_| self.unshare.is_none());
        let loses = |count: &&OutputCount| removal.axes(&format!("{}.weight", count.layer)).next().is_some();
        let number = self.plan.model().counts.iter().find(loses).filter(|_| self.layers.is_none());
        match shared.or(number.map(|count| count.path.as_str())) {
            Some(path) => Err(ShrinkError::OutOfReach { path: path.into() }),
            None => Ok(()),
        }
    }

    /// Drops what masked the units that are gone.
    fn drop_masking(&mut self, kept: &[KeptUnits]) {
        let gone = |link: &Link<B>| {
            link.removes.as_ref().is_some_and(|group| kept.iter().any(|k| k.group == *group))
        };
        self.chains.values_mut().for_each(|chain| chain.links.retain(|link| !gone(link)));
        let left: BTreeSet<usize> =
            self.chains.values().flat_map(|chain| &chain.links).map(|link| link.entry).collect();
        self.joints.retain(|joint| left.contains(&joint.entry));
        self.chains.retain(|_, chain| !chain.links.is_empty() || chain.compensation.is_some());
    }

    /// Tells what is left to the methods that go on.
    fn resize(
        &mut self,
        model: &M,
        state: &mut SessionState<B>,
        removal: &Removal,
        cuts: &Cuts,
    ) -> Result<(), ShrinkError> {
        self.inputs.values_mut().for_each(|input| input.site = input.site.without(removal));
        let (chains, clock) = (&mut self.chains, self.clock);
        let mut resize = Resize { chains, state, cuts, clock, result: Ok(()) };
        model.visit(&mut resize);
        resize.result
    }
}

/// A model that lost units.
struct Narrowed<M> {
    model: M,
    removed: Removed,
    removal: Removal,
    removing: Removing,
}

struct Resize<'a, B: Backend> {
    chains: &'a mut HashMap<ParamId, Chain<B>>,
    state: &'a mut SessionState<B>,
    cuts: &'a Cuts,
    clock: Clock,
    result: Result<(), ShrinkError>,
}

impl<B: Backend> ModuleVisitor<B> for Resize<'_, B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let (Some(chain), Some(cuts)) = (self.chains.get_mut(&param.id), self.cuts.get(&param.id)) else {
            return;
        };
        let native = param.dims();
        let Some(shape) = canonical_shape(chain.site.kind, &native).filter(|_| chain.site.native != native)
        else {
            return;
        };
        let [rows, columns] = canonical_kept(&chain.site, cuts);
        chain.site = Site { shape, native: native.to_vec(), ..chain.site.clone() };
        let mut weight = stop(to_canonical(chain.site.kind, param.val()));
        for link in &mut chain.links {
            let left = KeptPart { site: &chain.site, rows: &rows, columns: &columns, weight: weight.clone() };
            if let Err(problem) = link.stage.shrink(self.state, &left) {
                let (layer, method) = (chain.site.name.clone(), link.method.clone());
                self.result = Err(Box::new(Misfit { layer, method, shape, problem }).into());
                return;
            }
            weight = stop(link.stage.apply(self.state, self.clock, weight));
        }
    }
}

/// Rows and columns of the canonical view that are left of a weight, which `site` still states as it was.
fn canonical_kept(site: &Site, cuts: &[AxisCut]) -> [Vec<usize>; 2] {
    let kept = |axis: usize| {
        let cut = cuts.iter().find(|cut| cut.axis == axis);
        cut.map_or_else(|| (0..site.native[axis]).collect(), |cut| cut.kept.clone())
    };
    match site.kind {
        LayerKind::Linear => [kept(1), kept(0)],
        _ => {
            // What one entry of the second axis spans: a kernel's window, one column otherwise.
            let window: usize = site.native[2..].iter().product();
            [kept(0), kept(1).into_iter().flat_map(|i| i * window..(i + 1) * window).collect()]
        }
    }
}

/// The plan's groups, in the order of `kept`.
fn planned_groups<'a>(
    cuts: &'a BTreeMap<String, GroupCut>,
    kept: &[KeptUnits],
) -> Result<Vec<&'a DimensionGroup>, ShrinkError> {
    kept.iter()
        .map(|k| {
            let group = cuts.get(&k.group).map(|cut| cut.group.as_ref()).filter(|g| g.units == k.of);
            group.ok_or_else(|| ShrinkError::Unplanned { group: k.group.clone(), units: k.of })
        })
        .collect()
}

/// The axes of a group that `removal` makes shorter.
fn shorter(group: &DimensionGroup, parameters: &[Parameter], removal: &Removal) -> Vec<ShorterAxis> {
    let mut axes: Vec<ShorterAxis> = Vec::new();
    for member in &group.members {
        let Some(parameter) = parameters.iter().find(|p| p.path == member.path) else { continue };
        let Some(of) = parameter.shape.get(member.axis).copied() else { continue };
        let kept = removal.shape(&member.path, &parameter.shape)[member.axis];
        let axis = ShorterAxis { tensor: member.name.clone(), axis: member.axis, of, kept };
        if kept < of && !axes.contains(&axis) {
            axes.push(axis);
        }
    }
    axes
}

/// Names and values of the model's numbers that removal can change.
fn numbers<B: Backend, M: Module<B>>(layers: Option<Layers<B, M>>, model: &M) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    if let Some(layers) = layers {
        // A walk may change layers, so a clone is walked.
        layers(&mut model.clone(), &mut |at, layer| match layer {
            LayerMut::Number(number) => {
                let OutputCount { name, value, .. } = number.counted(at);
                found.insert(name, value);
            }
            LayerMut::Conv2d(conv) => {
                found.insert(format!("{}.groups", at.name()), conv.groups);
            }
            _ => {}
        });
    }
    found
}

fn changed(before: &BTreeMap<String, usize>, after: BTreeMap<String, usize>) -> BTreeMap<String, usize> {
    after.into_iter().filter(|(name, value)| before.get(name) != Some(value)).collect()
}

fn change_numbers<B: Backend, M: Module<B>>(
    layers: Option<Layers<B, M>>,
    model: &mut M,
    removing: &Removing,
) -> Result<(), RemovalError> {
    let Some(layers) = layers else { return Ok(()) };
    let mut problem = Ok(());
    layers(model, &mut |at, layer| {
        if problem.is_ok() {
            problem = removing.number(at, layer, true);
        }
    });
    problem
}
