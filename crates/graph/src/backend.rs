//! A backend that computes nothing and writes down what it was asked to compute.
//!
//! It is burn's router with a client of our own: tensors have a shape, a type and a number, but no entries. Operations
//! are written into a recording of the thread that is tracing, if there is one, so traces do not disturb each other.

use burn::prelude::*;
use burn_backend::{DType, DTypeUsage, DTypeUsageSet, ExecutionError};
use burn_ir::{OperationIr, TensorId, TensorIr};
use burn_router::{BackendRouter, MultiBackendBridge, RouterTensor, RunnerChannel, RunnerClient};
use burn_std::device::{Device, DeviceId};
use burn_std::future::DynFut;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// The backend on which a model is instantiated to be traced.
///
/// Making a model and running it costs next to nothing whatever its size. What it computes has the right shape, and
/// nothing can be read back except data that came from the host.
pub type Tracing = BackendRouter<Channel>;

/// The only device of [`Tracing`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TracingDevice;

impl Device for TracingDevice {
    fn from_id(_: DeviceId) -> Self {
        Self
    }

    fn to_id(&self) -> DeviceId {
        DeviceId { type_id: 0, index_id: 0 }
    }
}

impl burn_backend::DeviceOps for TracingDevice {}

/// What a forward pass did.
#[derive(Debug, Default)]
pub(crate) struct Recording {
    /// Operations in the order in which they were asked for.
    pub(crate) ops: Vec<OperationIr>,
    /// Data that came from the host during the pass: indices, masks.
    pub(crate) constants: HashMap<TensorId, TensorData>,
    /// Shape of the first tensor whose entries were asked for, though it was never computed.
    pub(crate) read: Option<Vec<usize>>,
}

thread_local! {
    static RECORDING: RefCell<Option<Recording>> = const { RefCell::new(None) };
}

/// Starts a recording on this thread.
///
/// Returns the one that was being made, for [`stop_recording`].
pub(crate) fn start_recording() -> Option<Recording> {
    RECORDING.replace(Some(Recording::default()))
}

/// Ends the recording and goes on with the one before it.
pub(crate) fn stop_recording(before: Option<Recording>) -> Recording {
    RECORDING.replace(before).unwrap_or_default()
}

fn record(write: impl FnOnce(&mut Recording)) {
    RECORDING.with_borrow_mut(|recording| recording.iter_mut().next().map(write));
}

/// The number of a tensor.
pub(crate) fn tensor_id<const D: usize>(tensor: Tensor<Tracing, D>) -> TensorId {
    tensor.into_primitive().tensor().into_ir().id
}

/// Hands operations to the recording.
#[derive(Debug, Clone)]
pub struct Client;

static NUMBER: AtomicU64 = AtomicU64::new(0);

fn next_id() -> TensorId {
    TensorId::new(NUMBER.fetch_add(1, Ordering::Relaxed))
}

impl RunnerClient for Client {
    type Device = TracingDevice;

    fn register_op(&self, op: OperationIr) {
        if !matches!(op, OperationIr::Drop(_)) {
            record(|r| r.ops.push(op));
        }
    }

    fn read_tensor_async(&self, tensor: TensorIr) -> DynFut<Result<TensorData, ExecutionError>> {
        let mut known = None;
        record(|r| {
            known = r.constants.get(&tensor.id).cloned();
            if known.is_none() {
                r.read.get_or_insert(tensor.shape.to_vec());
            }
        });
        let reason = "a backend that traces computes nothing that could be read".to_string();
        let answer = known.ok_or(ExecutionError::WithContext { reason });
        Box::pin(async move { answer })
    }

    fn sync(&self) -> Result<(), ExecutionError> {
        Ok(())
    }

    fn create_empty_handle(&self) -> TensorId {
        next_id()
    }

    fn register_tensor_data(&self, data: TensorData) -> RouterTensor<Self> {
        let tensor = RouterTensor::new(next_id(), data.shape.clone(), data.dtype, self.clone());
        let id = tensor.clone().into_ir().id;
        record(|r| _ = r.constants.insert(id, data));
        tensor
    }

    fn device(&self) -> TracingDevice {
        TracingDevice
    }

    fn seed(&self, _: u64) {}

    fn dtype_usage(&self, _: DType) -> DTypeUsageSet {
        DTypeUsage::general()
    }
}

/// Connects the router with [`Client`]; there is one device only.
#[derive(Debug, Clone)]
pub struct Channel;

/// Moves nothing, as there is one device only.
#[derive(Debug)]
pub struct Bridge;

impl MultiBackendBridge for Bridge {
    type TensorHandle = ();
    type Device = TracingDevice;

    fn change_backend_float((): (), _: Shape, _: &TracingDevice) {}
    fn change_backend_int((): (), _: Shape, _: &TracingDevice) {}
    fn change_backend_bool((): (), _: Shape, _: &TracingDevice) {}
}

impl RunnerChannel for Channel {
    type Device = TracingDevice;
    type Bridge = Bridge;
    type Client = Client;
    type FloatElem = f32;
    type IntElem = i32;
    type BoolElem = bool;

    fn name(_: &TracingDevice) -> String {
        "tracing".into()
    }

    fn init_client(_: &TracingDevice) -> Client {
        Client
    }

    fn get_tensor_handle(_: &TensorIr, _: &Client) {}

    fn register_tensor(client: &Client, (): (), shape: Shape, dtype: DType) -> RouterTensor<Client> {
        RouterTensor::new(next_id(), shape, dtype, client.clone())
    }

    fn change_client_backend(tensor: RouterTensor<Client>, _: &TracingDevice) -> RouterTensor<Client> {
        tensor
    }
}
