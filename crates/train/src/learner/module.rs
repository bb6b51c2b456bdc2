//! Sessions and their views as burn's modules.

use super::record::{SessionRecord, restore, save};
use super::{Objective, SessionModel, SessionView};
use briquette_composer::Trainable;
use burn::module::{
    AutodiffModule, Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper,
    ModuleVisitor,
};
use burn::tensor::backend::AutodiffBackend;
use std::fmt;

impl<B: AutodiffBackend, M: Trainable<B>, O: Objective<B, M>> Module<B> for SessionModel<B, M, O> {
    type Record = SessionRecord<B, M>;

    fn collect_devices(&self, devices: Devices<B>) -> Devices<B> {
        self.parts.collect_devices(devices)
    }

    fn fork(self, device: &B::Device) -> Self {
        Self { parts: self.parts.fork(device), ..self }
    }

    fn to_device(self, device: &B::Device) -> Self {
        Self { parts: self.parts.to_device(device), ..self }
    }

    fn visit<V: ModuleVisitor<B>>(&self, visitor: &mut V) {
        self.parts.visit(visitor);
    }

    fn map<P: ModuleMapper<B>>(self, mapper: &mut P) -> Self {
        Self { parts: self.parts.map(mapper), ..self }
    }

    /// # Panics
    /// When the record is of another model or recipe.
    fn load_record(mut self, record: Self::Record) -> Self {
        self.change(|session| restore(session, record));
        self
    }

    fn into_record(self) -> Self::Record {
        self.with(|session| save(session))
    }
}

impl<B: AutodiffBackend, M: Trainable<B>, O: Objective<B, M>> AutodiffModule<B> for SessionModel<B, M, O> {
    type InnerModule = SessionView<B, M, O>;

    fn valid(&self) -> SessionView<B, M, O> {
        SessionView { model: self.with(|session| session.valid()), of: self.clone() }
    }

    fn from_inner(view: SessionView<B, M, O>) -> Self {
        view.of
    }
}

impl<B: AutodiffBackend, M: Trainable<B>, O: Objective<B, M>> Module<B::InnerBackend>
    for SessionView<B, M, O>
{
    type Record = <M::InnerModule as Module<B::InnerBackend>>::Record;

    fn collect_devices(&self, devices: Devices<B::InnerBackend>) -> Devices<B::InnerBackend> {
        self.model.collect_devices(devices)
    }

    fn fork(self, device: &B::Device) -> Self {
        Self { model: self.model.fork(device), ..self }
    }

    fn to_device(self, device: &B::Device) -> Self {
        Self { model: self.model.to_device(device), ..self }
    }

    fn visit<V: ModuleVisitor<B::InnerBackend>>(&self, visitor: &mut V) {
        self.model.visit(visitor);
    }

    fn map<P: ModuleMapper<B::InnerBackend>>(self, mapper: &mut P) -> Self {
        Self { model: self.model.map(mapper), ..self }
    }

    fn load_record(self, record: Self::Record) -> Self {
        Self { model: self.model.load_record(record), ..self }
    }

    fn into_record(self) -> Self::Record {
        self.model.into_record()
    }
}

impl<B: AutodiffBackend, M: Trainable<B>, O: Clone> Clone for SessionView<B, M, O> {
    fn clone(&self) -> Self {
        Self { model: self.model.clone(), of: self.of.clone() }
    }
}

impl<B: AutodiffBackend, M: Trainable<B>, O> fmt::Debug for SessionModel<B, M, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionModel")
            .field("parts", &self.parts)
            .field("clock", &self.clock)
            .finish_non_exhaustive()
    }
}

impl<B: AutodiffBackend, M: Trainable<B>, O> fmt::Debug for SessionView<B, M, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionView").field("model", &self.model).finish_non_exhaustive()
    }
}

impl<B: AutodiffBackend, M: Trainable<B>, O> ModuleDisplayDefault for SessionModel<B, M, O> {
    fn content(&self, content: Content) -> Option<Content> {
        Some(content.set_top_level_type("SessionModel").add("model", &self.parts.model))
    }

    fn num_params(&self) -> usize {
        Module::<B>::num_params(&self.parts.model)
    }
}

impl<B: AutodiffBackend, M: Trainable<B>, O> ModuleDisplay for SessionModel<B, M, O> {}

impl<B: AutodiffBackend, M: Trainable<B>, O> fmt::Display for SessionModel<B, M, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&ModuleDisplay::format(self, Default::default()))
    }
}
