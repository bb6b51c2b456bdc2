//! What each operation means for the axes of its tensors.

mod conv;
mod elementwise;
mod index;
mod matmul;
mod reduce;
mod shape;

use crate::axes::Axes;
use crate::walk::{Value, Walk};
use crate::why::Why;
use burn_ir::{
    BaseOperationIr, BoolOperationIr, FloatOperationIr, IntOperationIr, ModuleOperationIr,
    NumericOperationIr, OperationIr, TensorIr,
};
use elementwise::How;

impl Walk<'_> {
    /// Looks at one operation.
    pub(crate) fn apply(&mut self, op: &OperationIr) {
        match op {
            OperationIr::BaseFloat(base) | OperationIr::BaseInt(base) | OperationIr::BaseBool(base) => {
                self.base(op, base);
            }
            OperationIr::NumericFloat(_, numeric) | OperationIr::NumericInt(_, numeric) => {
                self.numeric(op, numeric);
            }
            OperationIr::Bool(bool) => self.bool(bool),
            OperationIr::Int(int) => self.int(op, int),
            OperationIr::Float(_, float) => self.float(op, float),
            OperationIr::Module(module) => self.module(op, module),
            OperationIr::Init(init) => {
                self.put(&init.out, Value::constant(Axes::fixed(&init.out.shape, Why::Data), false));
            }
            OperationIr::Drop(_) => {}
            _ => self.unknown(op),
        }
    }

    fn base(&mut self, op: &OperationIr, base: &BaseOperationIr) {
        use BaseOperationIr as Base;
        match base {
            Base::Reshape(r) => self.reshape(&r.input, &r.out),
            Base::SwapDims(r) => self.swap_dims(r),
            Base::Permute(r) => self.permute(&r.input, &r.out, &r.axes),
            Base::Flip(r) => self.flip(r),
            Base::Expand(r) => self.expand(&r.input, &r.out),
            Base::RepeatDim(r) => self.repeat_dim(r),
            Base::Slice(r) => self.slice(r),
            Base::SliceAssign(r) => self.slice_assign(r),
            Base::Cat(r) => self.cat(r),
            Base::Select(r) => self.select(r),
            Base::Gather(r) => self.gather(r),
            Base::MaskWhere(r) => self.elementwise(&[&r.tensor, &r.mask, &r.value], &r.out, How::Other),
            Base::MaskFill(r) => self.elementwise(&[&r.tensor, &r.mask], &r.out, How::Other),
            Base::Equal(r) => self.elementwise(&[&r.lhs, &r.rhs], &r.out, How::Other),
            Base::EqualElem(r) => self.same(&r.lhs, &r.out),
            Base::Cast(r) => self.scaled(&r.input, &r.out),
            Base::Zeros(r) => self.put(&r.out, Value::constant(Axes::free(&r.out.shape), true)),
            Base::Empty(r) | Base::Ones(r) => self.free(&r.out),
            _ => self.unknown(op),
        }
    }

    fn numeric(&mut self, op: &OperationIr, numeric: &NumericOperationIr) {
        use NumericOperationIr as Numeric;
        match numeric {
            Numeric::Add(r) => self.elementwise(&[&r.lhs, &r.rhs], &r.out, How::Add),
            Numeric::Sub(r) => self.elementwise(&[&r.lhs, &r.rhs], &r.out, How::Sub),
            Numeric::Mul(r) => self.elementwise(&[&r.lhs, &r.rhs], &r.out, How::Mul),
            Numeric::Div(r) => self.elementwise(&[&r.lhs, &r.rhs], &r.out, How::Div),
            Numeric::Rem(r)
            | Numeric::Greater(r)
            | Numeric::GreaterEqual(r)
            | Numeric::Lower(r)
            | Numeric::LowerEqual(r)
            | Numeric::Powi(r) => self.elementwise(&[&r.lhs, &r.rhs], &r.out, How::Other),
            Numeric::MulScalar(r) | Numeric::DivScalar(r) => self.scaled(&r.lhs, &r.out),
            Numeric::Abs(r) => self.scaled(&r.input, &r.out),
            Numeric::AddScalar(r)
            | Numeric::SubScalar(r)
            | Numeric::RemScalar(r)
            | Numeric::GreaterElem(r)
            | Numeric::GreaterEqualElem(r)
            | Numeric::LowerElem(r)
            | Numeric::LowerEqualElem(r)
            | Numeric::PowiScalar(r) => self.same(&r.lhs, &r.out),
            Numeric::Clamp(r) => self.same(&r.tensor, &r.out),
            Numeric::Full(r) => self.free(&r.out),
            Numeric::IntRandom(r) => self.free(&r.out),
            Numeric::MeanDim(r) | Numeric::SumDim(r) => self.average_dim(r),
            Numeric::ProdDim(r)
            | Numeric::ArgMax(r)
            | Numeric::ArgMin(r)
            | Numeric::ArgTopK(r)
            | Numeric::TopK(r)
            | Numeric::MaxDim(r)
            | Numeric::MinDim(r)
            | Numeric::MaxAbsDim(r) => self.mix(&r.input, &[&r.out], r.axis),
            Numeric::MaxDimWithIndices(r) | Numeric::MinDimWithIndices(r) => {
                self.mix(&r.tensor, &[&r.out, &r.out_indices], r.dim);
            }
            Numeric::CumSum(r) | Numeric::CumProd(r) | Numeric::CumMin(r) | Numeric::CumMax(r) => {
                self.mix(&r.input, &[&r.out], r.axis);
            }
            Numeric::Mean(_)
            | Numeric::Sum(_)
            | Numeric::Prod(_)
            | Numeric::Max(_)
            | Numeric::Min(_)
            | Numeric::MaxAbs(_) => self.unknown(op),
        }
    }

    fn bool(&mut self, op: &BoolOperationIr) {
        match op {
            BoolOperationIr::IntoFloat(r) | BoolOperationIr::IntoInt(r) => self.same(&r.input, &r.out),
            BoolOperationIr::Not(r) => self.same(&r.input, &r.out),
            BoolOperationIr::And(r) | BoolOperationIr::Or(r) => {
                self.elementwise(&[&r.lhs, &r.rhs], &r.out, How::Other);
            }
        }
    }

    fn int(&mut self, op: &OperationIr, int: &IntOperationIr) {
        match int {
            IntOperationIr::IntoFloat(r) => self.scaled(&r.input, &r.out),
            IntOperationIr::BitwiseNot(r) => self.same(&r.input, &r.out),
            IntOperationIr::Matmul(r) => self.matmul(r),
            IntOperationIr::BitwiseAnd(r)
            | IntOperationIr::BitwiseOr(r)
            | IntOperationIr::BitwiseXor(r)
            | IntOperationIr::BitwiseLeftShift(r)
            | IntOperationIr::BitwiseRightShift(r) => {
                self.elementwise(&[&r.lhs, &r.rhs], &r.out, How::Other);
            }
            _ => self.alone(op),
        }
    }

    fn float(&mut self, op: &OperationIr, float: &FloatOperationIr) {
        use FloatOperationIr as Float;
        match float {
            Float::Matmul(r) => self.matmul(r),
            Float::Random(r) => self.free(&r.out),
            Float::ArcTan2(r) | Float::Powf(r) => self.elementwise(&[&r.lhs, &r.rhs], &r.out, How::Other),
            Float::Cross(_) | Float::Quantize(_) | Float::Dequantize(_) | Float::GridSample2d(_) => {
                self.unknown(op);
            }
            _ => self.alone(op),
        }
    }

    fn module(&mut self, op: &OperationIr, module: &ModuleOperationIr) {
        use ModuleOperationIr as Module;
        match module {
            Module::Linear(r) => self.linear(r),
            Module::Embedding(r) => self.embedding(r),
            Module::Attention(r) => self.attention(r),
            Module::Conv1d(r) => self.conv(&r.x, &r.weight, r.bias.as_ref(), &r.out, r.options.groups),
            Module::Conv2d(r) => self.conv(&r.x, &r.weight, r.bias.as_ref(), &r.out, r.options.groups),
            Module::Conv3d(r) => self.conv(&r.x, &r.weight, r.bias.as_ref(), &r.out, r.options.groups),
            Module::ConvTranspose1d(r) => {
                self.conv_transpose(&r.x, &r.weight, r.bias.as_ref(), &r.out, r.options.groups);
            }
            Module::ConvTranspose2d(r) => {
                self.conv_transpose(&r.x, &r.weight, r.bias.as_ref(), &r.out, r.options.groups);
            }
            Module::ConvTranspose3d(r) => {
                self.conv_transpose(&r.x, &r.weight, r.bias.as_ref(), &r.out, r.options.groups);
            }
            Module::AvgPool1d(r) => self.spatial(&r.x, &[&r.out]),
            Module::AvgPool2d(r) => self.spatial(&r.x, &[&r.out]),
            Module::AdaptiveAvgPool1d(r) => self.spatial(&r.x, &[&r.out]),
            Module::AdaptiveAvgPool2d(r) => self.spatial(&r.x, &[&r.out]),
            Module::MaxPool1d(r) => self.spatial(&r.x, &[&r.out]),
            Module::MaxPool2d(r) => self.spatial(&r.x, &[&r.out]),
            Module::MaxPool1dWithIndices(r) => self.spatial(&r.x, &[&r.out, &r.out_indices]),
            Module::MaxPool2dWithIndices(r) => self.spatial(&r.x, &[&r.out, &r.out_indices]),
            Module::Interpolate(r) => self.spatial(&r.x, &[&r.out]),
            _ => self.unknown(op),
        }
    }

    /// An operation on each entry of one tensor.
    fn alone(&mut self, op: &OperationIr) {
        let (inputs, outputs): (Vec<_>, Vec<_>) = (op.inputs().collect(), op.outputs().collect());
        match (&inputs[..], &outputs[..]) {
            (&[input], &[out]) if input.shape == out.shape => self.same(input, out),
            _ => self.unknown(op),
        }
    }

    /// Copies of one number, or noise.
    fn free(&mut self, out: &TensorIr) {
        self.put(out, Value::constant(Axes::free(&out.shape), false));
    }

    /// All entries of all tensors stay.
    fn unknown(&mut self, op: &OperationIr) {
        let why = Why::Mixed(self.at);
        for input in op.inputs() {
            let value = self.value(input);
            value.axes.freeze(why, &mut self.labels);
            self.unfollowed(&value.averages);
        }
        for out in op.outputs() {
            self.put(out, Value::activation(Axes::fixed(&out.shape, why)));
        }
    }
}
