//! What methods do over all layers at once.

use super::walk::FieldPath;
use super::{JointLink, Session};
use briquette_core::{Clock, SessionState, stop, to_canonical};
use burn::module::{ModuleVisitor, Param};
use burn::prelude::*;

/// Lets every joint part act at `clock`.
pub(super) fn update<B: Backend, M: Module<B>>(
    joints: &[JointLink<B>],
    state: &mut SessionState<B>,
    model: &M,
    clock: Clock,
) {
    joints.iter().for_each(|link| link.joint.update(state, clock, &|path| weight(model, path)));
}

/// The weight of the layer at a field path, in the canonical view, off the graph.
fn weight<B: Backend, M: Module<B>>(model: &M, path: &str) -> Option<Tensor<B, 2>> {
    let mut find = Find { at: FieldPath::default(), path, found: None };
    model.visit(&mut find);
    find.found
}

impl<B: Backend, M: Module<B>> Session<B, M> {
    pub(super) fn update_joints(&mut self) {
        let mut trained = self.trained.take().expect("taken out only within this call");
        update(&self.joints, &mut trained.state, &trained.model, self.clock);
        self.trained = Some(trained);
        self.cache.borrow_mut().clear();
    }
}

struct Find<'a, B: Backend> {
    at: FieldPath,
    path: &'a str,
    found: Option<Tensor<B, 2>>,
}

impl<B: Backend> ModuleVisitor<B> for Find<'_, B> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.at.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.at.leave();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if let Some((path, kind)) = self.at.weight()
            && path == self.path
        {
            self.found = Some(stop(to_canonical(kind, param.val())));
        }
    }
}
