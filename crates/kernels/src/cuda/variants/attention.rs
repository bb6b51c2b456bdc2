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
    /// Whether the mask says the same for all queries.
    pub(in crate::cuda) mask_by_key: bool,
}

impl Attention {
    /// Queries that a block takes.
    pub(in crate::cuda) const QUERIES: usize = 64;

    /// Keys that it looks at together.
    const KEYS: u32 = 64;
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
             #define MASK_BY_KEY {}\n#define LOWEST {lowest}",
            self.element.name(),
            self.width,
            u8::from(self.causal),
            u8::from(self.mask),
            u8::from(self.mask_by_key)
        )
    }

    fn threads(self) -> u32 {
        128
    }

    /// Two tiles of keys and two of values, in rows that are 16 bytes longer than a head.
    fn shared_bytes(self) -> usize {
        (4 * Self::KEYS * (self.width + 8) * 2) as usize
    }
}
