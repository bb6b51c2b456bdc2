//! burn's module traits for drop-in layers.

use burn::module::{ModuleVisitor, Param};
use burn::prelude::*;

/// Implements burn's module traits so that the record is burn's own record of the same layer.
///
/// burn's derive would add a field to the record for every field of ours, and binary records, which
/// go by position, would then not load in either direction.
///
/// - `parameters`: fields of the record that hold something; visited, mapped, saved.
/// - `slots`: a slot of [`crate::slots`]; moved and converted, never visited.
/// - `settings`: plain data; copied.
/// - `empty`: the other fields of the record.
macro_rules! drop_in_module {
    (
        $layer:ident, $record:ident,
        parameters [$($parameter:ident),*],
        slots [$($slot:ident),*],
        settings [$($setting:ident),*],
        empty [$($empty:ident),*] $(,)?
    ) => {
        impl<B: Backend> Module<B> for $layer<B> {
            type Record = $record<B>;

            fn collect_devices(&self, devices: Devices<B>) -> Devices<B> {
                $(let devices = Module::<B>::collect_devices(&self.$parameter, devices);)*
                $(let devices = self.$slot.collect_devices(devices);)*
                devices
            }

            fn fork(self, device: &B::Device) -> Self {
                Self {
                    $($parameter: Module::<B>::fork(self.$parameter, device),)*
                    $($slot: self.$slot.to_device(device),)*
                    $($setting: self.$setting,)*
                }
            }

            fn to_device(self, device: &B::Device) -> Self {
                Self {
                    $($parameter: Module::<B>::to_device(self.$parameter, device),)*
                    $($slot: self.$slot.to_device(device),)*
                    $($setting: self.$setting,)*
                }
            }

            fn num_params(&self) -> usize {
                0 $(+ crate::module::count::<B, _>(&self.$parameter))*
            }

            fn visit<V: ModuleVisitor<B>>(&self, visitor: &mut V) {
                $(
                    visitor.enter_module(stringify!($parameter), concat!("Struct:", stringify!($layer)));
                    Module::<B>::visit(&self.$parameter, visitor);
                    visitor.exit_module(stringify!($parameter), concat!("Struct:", stringify!($layer)));
                )*
            }

            fn map<M: ModuleMapper<B>>(self, mapper: &mut M) -> Self {
                Self {
                    $($parameter: {
                        mapper.enter_module(stringify!($parameter), concat!("Struct:", stringify!($layer)));
                        let mapped = Module::<B>::map(self.$parameter, mapper);
                        mapper.exit_module(stringify!($parameter), concat!("Struct:", stringify!($layer)));
                        mapped
                    },)*
                    $($slot: self.$slot,)*
                    $($setting: self.$setting,)*
                }
            }

            fn load_record(self, record: Self::Record) -> Self {
                Self {
                    $($parameter: Module::<B>::load_record(self.$parameter, record.$parameter),)*
                    $($slot: self.$slot,)*
                    $($setting: self.$setting,)*
                }
            }

            fn into_record(self) -> Self::Record {
                Self::Record {
                    $($parameter: Module::<B>::into_record(self.$parameter),)*
                    $($empty: burn::module::EmptyRecord::new(),)*
                }
            }
        }

        impl<B: AutodiffBackend> AutodiffModule<B> for $layer<B> {
            type InnerModule = $layer<B::InnerBackend>;

            fn valid(&self) -> Self::InnerModule {
                $layer {
                    $($parameter: AutodiffModule::<B>::valid(&self.$parameter),)*
                    $($slot: AutodiffSlot::<B>::valid(&self.$slot),)*
                    $($setting: self.$setting.clone(),)*
                }
            }

            fn from_inner(module: Self::InnerModule) -> Self {
                Self {
                    $($parameter: AutodiffModule::<B>::from_inner(module.$parameter),)*
                    $($slot: AutodiffSlot::<B>::from_inner(module.$slot),)*
                    $($setting: module.$setting,)*
                }
            }
        }

        impl<B: AutodiffBackend> HasAutodiffModule<B> for $layer<B::InnerBackend> {
            type TrainModule = $layer<B>;
        }

        impl<B: Backend> std::fmt::Display for $layer<B> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&ModuleDisplay::format(self, DisplaySettings::default()))
            }
        }

        impl<B: Backend> ModuleDisplayDefault for $layer<B> {
            fn content(&self, content: Content) -> Option<Content> {
                content
                    .set_top_level_type(&stringify!($layer))
                    $(.add(stringify!($parameter), &self.$parameter))*
                    $(.add_debug_attribute(stringify!($slot), &self.$slot))*
                    $(.add_debug_attribute(stringify!($setting), &self.$setting))*
                    .optional()
            }

            fn num_params(&self) -> usize {
                Module::num_params(self)
            }
        }
    };
}

pub(crate) use drop_in_module;

/// How many numbers the parameters hold. burn's own count makes lazy parameters exist.
pub(crate) fn count<B: Backend, M: Module<B>>(module: &M) -> usize {
    struct Count(usize);
    impl<B: Backend> ModuleVisitor<B> for Count {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            self.0 += param.lazy_shape().num_elements();
        }
    }
    let mut count = Count(0);
    module.visit(&mut count);
    count.0
}

/// What the macro's expansion needs in scope.
pub(crate) mod needs {
    pub(crate) use crate::slots::AutodiffSlot;
    pub(crate) use burn::module::{
        AutodiffModule, Content, Devices, DisplaySettings, HasAutodiffModule, ModuleDisplay,
        ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
    };
    pub(crate) use burn::tensor::backend::AutodiffBackend;
}
