//! NVIDIA's devices.

use crate::activation::Activation;
use crate::cube::float;
use crate::cuda;
use crate::packed_matrix::{Code, PackedMatrix};
use crate::product_kernel::PackedProduct;
use crate::quantize::TokenQuant;
use burn::prelude::*;
use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::ComputeClient;
use cubecl_cuda::CudaRuntime;
use std::any::{Any, TypeId};

/// An input's codes, made when a product first asks for them.
#[derive(Default)]
pub(in crate::cube) struct Codes {
    made: Option<cuda::Quantized>,
}

impl Codes {
    /// The product of whole numbers with one weight, if the device and the weight are for it; the codes are always those
    /// of `x` quantized by `q`.
    pub(in crate::cube) fn times<B, R>(
        &mut self,
        x: &Tensor<B, 2>,
        q: TokenQuant,
        p: &PackedMatrix<B>,
        bias: Option<&Tensor<B, 1>>,
        activation: Activation,
    ) -> Option<Tensor<B, 2>>
    where
        B: Backend<FloatTensorPrimitive = CubeTensor<R>, IntTensorPrimitive = CubeTensor<R>>,
        R: CubeRuntime,
    {
        let x = on_cuda(x.clone().into_primitive().tensor())?;
        let w = cuda::Weight {
            words: on_cuda(p.words.clone().into_primitive())?,
            scales: on_cuda(p.scales.clone().into_primitive().tensor())?,
            bits: p.bits,
            code: p.code,
            shape: p.shape,
            group: p.group,
            prepared: p.prepared.clone(),
        };
        let bias = bias.and_then(|bias| on_cuda(bias.clone().into_primitive().tensor()));
        cuda::supports(&x, &w, bias.as_ref()).ok()?;
        let codes = self.made.get_or_insert_with(|| cuda::quantize(x, q));
        let y = cuda::product(codes, &w, bias, activation);
        same::<_, CubeTensor<R>>(y).map(float::<B, R, 2>)
    }
}

/// Why a product is not computed in integers on a device, if it is not.
pub(in crate::cube) fn refuses<R: CubeRuntime>(product: PackedProduct, device: &R::Device) -> Option<String> {
    let client: ComputeClient<CudaRuntime> = match same(R::client(device)) {
        Some(client) => client,
        None => return Some("the device is none of CUDA's".into()),
    };
    let PackedProduct { shape, code, group, .. } = product;
    let suits = cuda::runs_on(&client).and_then(|()| cuda::suits(code, shape, group));
    suits.err().map(|why| why.to_string())
}

/// See [`crate::ops::CompressOps::multiplies_codes`].
pub(in crate::cube) fn multiplies_codes<R: CubeRuntime>(code: Code, shape: [usize; 2], group: usize) -> bool {
    is_cuda::<R>() && cuda::suits(code, shape, group).is_ok()
}

/// See [`crate::ops::CompressOps::attends`].
pub(in crate::cube) fn attends<R: CubeRuntime>(dtype: DType, width: usize) -> bool {
    is_cuda::<R>() && cuda::supports_attention(dtype, width)
}

/// Attention in one kernel, if the tensors are for it.
pub(in crate::cube) fn attention<B, R>(
    [q, k, v]: [&Tensor<B, 4>; 3],
    mask: Option<&Tensor<B, 4>>,
    causal: bool,
    scale: f64,
) -> Option<Tensor<B, 4>>
where
    B: Backend<FloatTensorPrimitive = CubeTensor<R>>,
    R: CubeRuntime,
{
    let [width, value_width] = [q, v].map(|x| x.dims()[3]);
    let alike = [k, v].into_iter().chain(mask).all(|x| x.dtype() == q.dtype());
    let entries: usize = q.dims().iter().chain(&v.dims()).product();
    if !attends::<R>(q.dtype(), width) || width != value_width || !alike || entries == 0 {
        return None;
    }
    let inside = |x: &Tensor<B, 4>| on_cuda(x.clone().into_primitive().tensor());
    let mask = match mask {
        Some(mask) => Some(inside(mask)?),
        None => None,
    };
    let y = cuda::attention(inside(q)?, inside(k)?, inside(v)?, mask, causal, scale);
    same::<_, CubeTensor<R>>(y).map(float::<B, R, 4>)
}

fn is_cuda<R: CubeRuntime>() -> bool {
    TypeId::of::<R>() == TypeId::of::<CudaRuntime>()
}

/// A tensor of a runtime that turns out to be CUDA's.
fn on_cuda<R: CubeRuntime>(x: CubeTensor<R>) -> Option<CubeTensor<CudaRuntime>> {
    same(x)
}

/// A value of a type that turns out to be another's name.
fn same<T: 'static, U: 'static>(value: T) -> Option<U> {
    let mut value = Some(value);
    (&mut value as &mut dyn Any).downcast_mut::<Option<U>>().and_then(Option::take)
}
