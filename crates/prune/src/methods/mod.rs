//! One file or folder per method.

mod channel_pruning;
mod head_pruning;
mod row_pruning;
mod sparse_pruning;
mod structure_pruning;
mod width_pruning;

pub use channel_pruning::{ChannelPruning, Channels};
pub use head_pruning::{HeadPruning, Heads};
pub use row_pruning::{RowPruning, Rows};
pub use sparse_pruning::SparsePruning;
pub use structure_pruning::{StructurePruning, Structures};
pub use width_pruning::{Width, WidthPruning};
