//! Attention in one kernel.

use super::Element;
use crate::cuda::source::Kernel;

/// Attention of one head by 64 queries: `attention.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::cuda) struct Attention {
    pub(in crate::cuda) element: Element,
    /// Width of a head.
    pub(in crate::cuda) width: u32,
    pub(in crate::cuda) causal: bool,
    pub(in crate::cuda) mask: bool,
}

impl Attention {
    /// Queries that a block takes.
    pub(in crate::cuda) const QUERIES: usize = 64;
}

impl Kernel for Attention {
    const ENTRY: &'static str = "attention";
    const TEXT: &'static str = include_str!("../attention.cu");

    fn definitions(self) -> String {
        let (name, lowest) = match self.element {
            Element::F16 => ("f16", "-3.0e4f"),
            _ => ("bf16", "-1.0e30f"),
        };
        format!(
            "#define T {}\n#define T_NAME \"{name}\"\n#define D {}\n#define CAUSAL {}\n#define HAS_MASK {}\n\
             #define LOWEST {lowest}",
            self.element.name(),
            self.width,
            u8::from(self.causal),
            u8::from(self.mask)
        )
    }

    fn threads(self) -> u32 {
        128
    }
}
