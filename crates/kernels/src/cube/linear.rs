//! Products with packed weights: which kernels compute them, and what products of one input share.

use super::activation::activate;
use super::packed::tuned::{self, Candidate, Key};
use super::packed::{self, Choice, Form, Inputs, Problem, Weight};
use super::tensor_cores::{self, Prepared};
use super::{computes_in, float, rows};
use crate::activation::Activation;
use crate::linear::PackedLayer;
use crate::packed_matrix::PackedMatrix;
use crate::portable;
use crate::product_kernel::PackedProduct;
use crate::quantize::TokenQuant;
use burn::prelude::*;
use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use std::sync::Arc;

/// See [`crate::linear_all`].
pub(super) fn linear_all<B, R>(
    x: Tensor<B, 2>,
    q: Option<TokenQuant>,
    layers: Vec<PackedLayer<'_, B>>,
    activation: Activation,
) -> Vec<Tensor<B, 2>>
where
    B: Backend<FloatTensorPrimitive = CubeTensor<R>, IntTensorPrimitive = CubeTensor<R>>,
    R: CubeRuntime,
{
    let mut input = Input { x, q, numbers: None, simulated: None, prepared: Prepared::default() };
    layers.into_iter().map(|(p, bias)| input.times(p, bias, activation)).collect()
}

/// See [`crate::product_kernel`].
pub(super) fn kernel<R: CubeRuntime>(product: PackedProduct, floats: DType, device: &R::Device) -> String {
    if tensor_cores::takes_one_row::<R>(product, floats, device) {
        let inputs = if product.input.is_some() { "quantized on the way" } else { "as 16-bit whole numbers" };
        return format!("codes multiplied in their bytes on tensor cores, inputs {inputs}");
    }
    let in_codes = product.input.map(|_| tensor_cores::refuses_codes::<R>(product, device));
    if in_codes == Some(None) {
        return "int8 on tensor cores".into();
    }
    let halves = tensor_cores::halves::<R>(product, floats, device);
    let form = match (&halves, packed::choose(product.into())) {
        (Ok(form), _) => (*form).into(),
        (Err(_), Choice::One(form)) => form.to_string(),
        (Err(_), Choice::Measured { rows }) => match tuned::known::<R>(device, Key::of(product, floats)) {
            Some(form) => format!("{form}, measured to be the faster form"),
            None => format!("{}, or {}, as will be measured", Form::FewRows { rows }, Form::Unpacked),
        },
    };
    match (in_codes.flatten(), halves) {
        (Some(why), _) => format!("{form}; not int8 on tensor cores: {why}"),
        (None, Err(why)) => format!("{form}; not 16-bit floats on tensor cores: {why}"),
        (None, Ok(_)) => form,
    }
}

/// An input of products, and what was made of it for all of them.
struct Input<B: Backend, R: CubeRuntime> {
    /// `[rows, in]`.
    x: Tensor<B, 2>,
    /// How it is quantized before it is multiplied.
    q: Option<TokenQuant>,
    /// Whole numbers and their scales.
    numbers: Option<Inputs<R>>,
    /// Quantized and made floats again.
    simulated: Option<Tensor<B, 2>>,
    /// What tensor cores read.
    prepared: Prepared,
}

impl<B, R> Input<B, R>
where
    B: Backend<FloatTensorPrimitive = CubeTensor<R>, IntTensorPrimitive = CubeTensor<R>>,
    R: CubeRuntime,
{
    /// The product with one layer's weight.
    fn times(
        &mut self,
        p: &PackedMatrix<B>,
        bias: Option<Tensor<B, 1>>,
        activation: Activation,
    ) -> Tensor<B, 2> {
        let rows = self.x.dims()[0];
        if rows == 0 || p.shape.contains(&0) {
            return nothing(&self.x, p, bias, activation);
        }
        let tensors = [Some(self.x.clone()), Some(p.scales.clone()), p.zeros.clone()];
        if !tensors.into_iter().flatten().all(|x| computes_in(&x.into_primitive().tensor())) {
            let x = self.simulated();
            return activation.forward(portable::linear_packed(x, p, bias));
        }
        if let Some(y) = tensor_cores::one_row(&self.x, self.q, p, bias.as_ref(), activation) {
            return y;
        }
        // Few rows too: a tile of them takes as long as the weight's way to it.
        if let Some(q) = self.q
            && let Some(y) = self.prepared.times_codes(&self.x, q, p, bias.as_ref(), activation)
        {
            return y;
        }
        if tensor_cores::takes_halves(self.x.clone().into_primitive().tensor(), p.shape) {
            let x = self.simulated();
            if let Some(y) = self.prepared.times_halves(&x, p, bias.as_ref(), activation) {
                return y;
            }
        }
        match self.form(p, bias.as_ref(), activation) {
            Form::FewRows { rows } => few_rows(self.numbers(), p, bias, activation, rows, self.x.dtype()),
            Form::Unpacked => unpacked(&self.simulated(), p, bias, activation),
        }
    }

    /// The form of the product with one layer's weight, measured where it depends on the device and was not yet.
    fn form(&mut self, p: &PackedMatrix<B>, bias: Option<&Tensor<B, 1>>, activation: Activation) -> Form {
        let rows = match packed::choose(Problem::of(self.x.dims()[0], p)) {
            Choice::One(form) => return form,
            Choice::Measured { rows } => rows,
        };
        let x = self.x.clone().into_primitive().tensor();
        let key = Key::of(PackedProduct::of(self.x.dims()[0], self.q, p), x.dtype);
        if let Some(form) = tuned::known::<R>(&x.device, key) {
            return form;
        }
        let (numbers, simulated) = (self.numbers(), self.simulated());
        let (p, bias) = (p.clone(), bias.cloned());
        let (few_p, few_bias, dtype) = (p.clone(), bias.clone(), x.dtype);
        let in_registers: Candidate = (
            Form::FewRows { rows },
            Arc::new(move || {
                drop(few_rows::<B, R>(numbers.clone(), &few_p, few_bias.clone(), activation, rows, dtype));
            }),
        );
        let in_memory: Candidate = (
            Form::Unpacked,
            Arc::new(move || drop(unpacked::<B, R>(&simulated, &p, bias.clone(), activation))),
        );
        tuned::faster(&x.client, &x.device, key, [in_registers, in_memory])
    }

    /// For kernels that multiply with a scale of each row afterwards.
    fn numbers(&mut self) -> Inputs<R> {
        let Some(q) = self.q else {
            return Inputs { values: self.x.clone().into_primitive().tensor(), scales: None };
        };
        let make = || {
            let found = rows::quantize_to_floats(self.x.clone().into_primitive().tensor(), q);
            Inputs { values: found.codes, scales: Some(found.scales) }
        };
        self.numbers.get_or_insert_with(make).clone()
    }

    /// For products of floats.
    fn simulated(&mut self) -> Tensor<B, 2> {
        let Some(q) = self.q else {
            return self.x.clone();
        };
        let make = || {
            let x = self.x.clone();
            super::rowwise(x, |x| rows::fake_quantize(x, q), |x| portable::fake_quantize_rows(x, q))
        };
        self.simulated.get_or_insert_with(make).clone()
    }
}

/// The product that unpacks words in registers, so many rows at once.
fn few_rows<B, R>(
    inputs: Inputs<R>,
    p: &PackedMatrix<B>,
    bias: Option<Tensor<B, 1>>,
    activation: Activation,
    rows: usize,
    dtype: DType,
) -> Tensor<B, 2>
where
    B: Backend<FloatTensorPrimitive = CubeTensor<R>, IntTensorPrimitive = CubeTensor<R>>,
    R: CubeRuntime,
{
    let bias = bias.map(|bias| bias.into_primitive().tensor());
    float(packed::few_rows(inputs, Weight::of(p), bias, activation, rows, dtype))
}

/// The product of floats with the weight unpacked to memory.
fn unpacked<B, R>(
    x: &Tensor<B, 2>,
    p: &PackedMatrix<B>,
    bias: Option<Tensor<B, 1>>,
    activation: Activation,
) -> Tensor<B, 2>
where
    B: Backend<FloatTensorPrimitive = CubeTensor<R>, IntTensorPrimitive = CubeTensor<R>>,
    R: CubeRuntime,
{
    let w = float::<B, R, 2>(packed::unpack(Weight::of(p), None, x.dtype()));
    let y = with_bias(x.clone().matmul(w.transpose()), bias).into_primitive().tensor();
    float(if activation == Activation::Identity { y } else { activate(y, activation) })
}

/// A product of which something is empty: nothing, or the bias in each row.
pub(super) fn nothing<B: Backend>(
    x: &Tensor<B, 2>,
    p: &PackedMatrix<B>,
    bias: Option<Tensor<B, 1>>,
    activation: Activation,
) -> Tensor<B, 2> {
    let (rows, out) = (x.dims()[0], p.shape[0]);
    let options = (&x.device(), x.dtype());
    // Nothing can be launched on nothing.
    if rows * out == 0 {
        return Tensor::empty([rows, out], options);
    }
    activation.forward(with_bias(Tensor::zeros([rows, out], options), bias))
}

fn with_bias<B: Backend>(product: Tensor<B, 2>, bias: Option<Tensor<B, 1>>) -> Tensor<B, 2> {
    match bias {
        Some(bias) => product + bias.unsqueeze(),
        None => product,
    }
}
