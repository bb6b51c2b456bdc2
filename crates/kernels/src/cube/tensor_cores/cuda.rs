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

/// What is made of an input when a product first asks for it.
#[derive(Default)]
pub(in crate::cube) struct Prepared {
    codes: Option<cuda::int8::Quantized>,
    laid_out: Option<cuda::half::LaidOut>,
}

impl Prepared {
    /// The product of whole numbers with one weight, if the device and the weight are for it; the codes are always those
    /// of `x` quantized by `q`.
    pub(in crate::cube) fn times_codes<B, R>(
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
        let (x, w, bias) = operands(x, p, bias)?;
        cuda::int8::supports(&x, &w, bias.as_ref()).ok()?;
        let codes = self.codes.get_or_insert_with(|| cuda::int8::quantize(x, q));
        let y = cuda::int8::product(codes, &w, bias, activation);
        same::<_, CubeTensor<R>>(y).map(float::<B, R, 2>)
    }

    /// The product of half floats with one weight, if the device is for it; `x` is always the same.
    pub(in crate::cube) fn times_halves<B, R>(
        &mut self,
        x: &Tensor<B, 2>,
        p: &PackedMatrix<B>,
        bias: Option<&Tensor<B, 1>>,
        activation: Activation,
    ) -> Option<Tensor<B, 2>>
    where
        B: Backend<FloatTensorPrimitive = CubeTensor<R>, IntTensorPrimitive = CubeTensor<R>>,
        R: CubeRuntime,
    {
        let (x, w, bias) = operands(x, p, bias)?;
        cuda::half::supports(&x, &w, bias.as_ref()).ok()?;
        let y = match cuda::half::few_rows(x.meta.shape()[0], w.bits, w.shape, w.group) {
            Some(shares) => cuda::half::product_of_few(x, shares, &w, bias, activation),
            None => {
                let laid_out = self.laid_out.get_or_insert_with(|| cuda::half::lay_out(x));
                cuda::half::product(laid_out, &w, bias, activation)
            }
        };
        same::<_, CubeTensor<R>>(y).map(float::<B, R, 2>)
    }
}

/// The product of up to four rows with one weight in whole numbers, if the device is for it and nothing is faster; `x` is
/// quantized by `q`, if at all.
pub(in crate::cube) fn one_row<B, R>(
    x: &Tensor<B, 2>,
    q: Option<TokenQuant>,
    p: &PackedMatrix<B>,
    bias: Option<&Tensor<B, 1>>,
    activation: Activation,
) -> Option<Tensor<B, 2>>
where
    B: Backend<FloatTensorPrimitive = CubeTensor<R>, IntTensorPrimitive = CubeTensor<R>>,
    R: CubeRuntime,
{
    // Before the tensors are looked into: what has more rows comes by here too.
    if !cuda::one_row::suits(PackedProduct::of(x.dims()[0], q, p), x.dtype()) {
        return None;
    }
    let (x, w, bias) = operands(x, p, bias)?;
    cuda::half::supports(&x, &w, bias.as_ref()).ok()?;
    let y = cuda::one_row::product(x, q, &w, bias, activation);
    same::<_, CubeTensor<R>>(y).map(float::<B, R, 2>)
}

/// Input, weight and bias, if they are on CUDA.
fn operands<B, R>(
    x: &Tensor<B, 2>,
    p: &PackedMatrix<B>,
    bias: Option<&Tensor<B, 1>>,
) -> Option<(CubeTensor<CudaRuntime>, cuda::Weight, Option<CubeTensor<CudaRuntime>>)>
where
    B: Backend<FloatTensorPrimitive = CubeTensor<R>, IntTensorPrimitive = CubeTensor<R>>,
    R: CubeRuntime,
{
    let floats = |x: &Tensor<B, 2>| on_cuda(x.clone().into_primitive().tensor());
    let w = cuda::Weight {
        words: on_cuda(p.words.clone().into_primitive())?,
        scales: floats(&p.scales)?,
        zeros: p.zeros.as_ref().and_then(floats),
        bits: p.bits,
        code: p.code,
        shape: p.shape,
        group: p.group,
        prepared: p.prepared.clone(),
    };
    let bias = bias.and_then(|bias| on_cuda(bias.clone().into_primitive().tensor()));
    Some((floats(x)?, w, bias))
}

/// Why a product is not computed in integers on a device, if it is not.
pub(in crate::cube) fn refuses_codes<R: CubeRuntime>(
    product: PackedProduct,
    device: &R::Device,
) -> Option<String> {
    let PackedProduct { shape, code, group, .. } = product;
    refuses::<R>(device, || cuda::int8::suits(code, shape, group))
}

/// Whether a device computes a product of up to four rows in whole numbers.
pub(in crate::cube) fn takes_one_row<R: CubeRuntime>(
    product: PackedProduct,
    floats: DType,
    device: &R::Device,
) -> bool {
    let known = refuses::<R>(device, || Ok(())).is_none();
    known && cuda::one_row::suits(product, floats)
}

/// How a product of half floats is computed on a device, or why not on tensor cores.
pub(in crate::cube) fn halves<R: CubeRuntime>(
    product: PackedProduct,
    floats: DType,
    device: &R::Device,
) -> Result<&'static str, String> {
    let PackedProduct { rows, shape, bits, group, .. } = product;
    match refuses::<R>(device, || cuda::half::suits(floats, shape)) {
        Some(why) => Err(why),
        None if cuda::half::few_rows(rows, bits, shape, group).is_some() => {
            Ok("codes unpacked in registers for tensor cores")
        }
        None => Ok("the weight unpacked to memory for tensor cores"),
    }
}

fn refuses<R: CubeRuntime>(
    device: &R::Device,
    suits: impl FnOnce() -> Result<(), cuda::Unsupported>,
) -> Option<String> {
    let client: ComputeClient<CudaRuntime> = match same(R::client(device)) {
        Some(client) => client,
        None => return Some("the device is none of CUDA's".into()),
    };
    cuda::runs_on(&client).and_then(|()| suits()).err().map(|why| why.to_string())
}

/// See [`crate::ops::CompressOps::multiplies_codes`].
pub(in crate::cube) fn multiplies_codes<R: CubeRuntime>(code: Code, shape: [usize; 2], group: usize) -> bool {
    is_cuda::<R>() && cuda::int8::suits(code, shape, group).is_ok()
}

/// Whether the device of an input multiplies such floats with a weight `[out, in]` on tensor cores.
pub(in crate::cube) fn takes_halves<R: CubeRuntime>(x: CubeTensor<R>, shape: [usize; 2]) -> bool {
    on_cuda(x).is_some_and(|x| cuda::runs_on(&x.client).is_ok() && cuda::half::suits(x.dtype, shape).is_ok())
}

/// See [`crate::ops::CompressOps::multiplies_halves`].
pub(in crate::cube) fn multiplies_halves<R: CubeRuntime>(floats: DType, shape: [usize; 2]) -> bool {
    is_cuda::<R>() && cuda::half::suits(floats, shape).is_ok()
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
