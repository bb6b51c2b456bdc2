//! Products on tensor cores: what they have in common is in `tensor_tiles.cu`.

use super::{Element, number};
use crate::activation::Activation;
use crate::cuda::source::Kernel;
use std::fmt::Write;

/// Rows of a tile.
pub(in crate::cuda) const ROWS: usize = 128;

/// Bytes of a row in a tile of an input.
const ROW_BYTES: u32 = 128;

/// Shared memory that a block may have.
const SHARED_BYTES: u32 = 227 * 1024;

/// Bytes in which eight warps rearrange their results, and barriers.
const REST: u32 = 8 * 16 * ROW_BYTES + 256;

/// What stands between the prelude and both products.
const TILES: &str = include_str!("../tensor_tiles.cu");

/// Bytes of a tile of both inputs.
fn stage(columns: u32) -> u32 {
    (ROWS as u32 + columns) * ROW_BYTES
}

/// What a tile of so many columns takes of a block's shared memory.
#[derive(Clone, Copy)]
struct Room {
    columns: u32,
    /// Bytes that the threads of a group share for each column.
    column_bytes: u32,
}

impl Room {
    /// Two groups keep what they know of the columns of two tiles.
    fn rest(self) -> u32 {
        REST + 2 * 2 * self.columns * self.column_bytes
    }

    /// As many tiles as fit, up to eight.
    fn stages(self) -> u32 {
        ((SHARED_BYTES - self.rest()) / stage(self.columns)).min(8)
    }

    /// Bytes of dynamic shared memory.
    fn bytes(self) -> usize {
        (self.stages() * stage(self.columns) + self.rest()) as usize
    }
}

/// What all products on tiles define.
fn definitions(room: Room, element: Element, activation: Activation, bias: Option<Element>) -> String {
    format!(
        "#define BN {}\n#define STAGES {}\n#define OUT {}\n\
         #define ACTIVATION {}\n#define HAS_BIAS {}\n#define BIAS {}",
        room.columns,
        room.stages(),
        element.name(),
        number(activation),
        u8::from(bias.is_some()),
        bias.map_or("", Element::name),
    )
}

/// The instruction for one step of a tile of so many columns: sums of 64 rows, a half of them in each thread's registers.
/// `shape` is the end of its name, `sum` the type of the sums with its register class, `flags` what follows the operands.
fn instruction(columns: u32, shape: &str, (sum, class): (&str, &str), flags: &str) -> String {
    let registers = columns / 2;
    let list = |item: &dyn Fn(u32) -> String| (0..registers).map(item).collect::<Vec<_>>().join(", ");
    let mut text = String::new();
    let _ = write!(
        text,
        "#define SUM {sum}\nDEVICE void WGMMA({sum} (&d)[{registers}], u64 a, u64 b, bool add) {{\n\
         asm volatile(\"{{\\n.reg .pred add;\\nsetp.ne.b32 add, %{}, 0;\\n\"\n\
         \"wgmma.mma_async.sync.aligned.m64n{columns}{shape} {{{}}}, %{registers}, %{}, add{flags};\\n}}\"\n\
         : {} : \"l\"(a), \"l\"(b), \"r\"(static_cast<int>(add)));\n}}\n",
        registers + 2,
        list(&|i| format!("%{i}")),
        registers + 1,
        list(&|i| format!("\"+{class}\"(d[{i}])")),
    );
    text
}

/// The product of codes: `int8_product.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::cuda) struct Int8Product {
    /// Columns of a tile: 64, 128, 192 or 256.
    pub(in crate::cuda) columns: u32,
    pub(in crate::cuda) element: Element,
    pub(in crate::cuda) activation: Activation,
    pub(in crate::cuda) bias: Option<Element>,
    pub(in crate::cuda) shift: bool,
}

impl Int8Product {
    /// Scale and bias of a column, and the weight's sum where there is a shift.
    fn room(self) -> Room {
        Room { columns: self.columns, column_bytes: if self.shift { 16 } else { 8 } }
    }
}

impl Kernel for Int8Product {
    const ENTRY: &'static str = "int8_product";
    const TEXT: &'static str = include_str!("../int8_product.cu");
    const SHARED: &'static str = TILES;

    fn definitions(self) -> String {
        let tiles = definitions(self.room(), self.element, self.activation, self.bias);
        format!("{tiles}\n#define HAS_SHIFT {}", u8::from(self.shift))
    }

    fn helpers(self) -> String {
        instruction(self.columns, "k32.s32.s8.s8", ("int", "r"), "")
    }

    fn threads(self) -> u32 {
        384
    }

    fn shared_bytes(self) -> usize {
        self.room().bytes()
    }
}

/// The product of half floats: `half_product.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::cuda) struct HalfProduct {
    /// Columns of a tile: 64, 128, 192 or 256.
    pub(in crate::cuda) columns: u32,
    /// Of 16 bits.
    pub(in crate::cuda) element: Element,
    pub(in crate::cuda) activation: Activation,
    pub(in crate::cuda) bias: Option<Element>,
}

impl HalfProduct {
    /// Elements of a row that lie together.
    pub(in crate::cuda) const BLOCK: usize = ROW_BYTES as usize / 2;

    /// The bias of a column.
    fn room(self) -> Room {
        Room { columns: self.columns, column_bytes: 4 }
    }
}

impl Kernel for HalfProduct {
    const ENTRY: &'static str = "half_product";
    const TEXT: &'static str = include_str!("../half_product.cu");
    const SHARED: &'static str = TILES;

    fn definitions(self) -> String {
        definitions(self.room(), self.element, self.activation, self.bias)
    }

    fn helpers(self) -> String {
        let name = self.element.short();
        let shape = format!("k16.f32.{name}.{name}");
        instruction(self.columns, &shape, ("float", "f"), ", 1, 1, 0, 0")
    }

    fn threads(self) -> u32 {
        384
    }

    fn shared_bytes(self) -> usize {
        self.room().bytes()
    }
}
