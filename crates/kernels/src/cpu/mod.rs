//! The operations on the CPU backend's memory.

use crate::ops::CompressOps;
use burn::backend::Flex;

impl CompressOps for Flex {}
