//! Element-wise expressions.

use flotilla_tensor::DType;
use serde::{Deserialize, Serialize};

use crate::dim::Dim;

/// An element-wise expression in single-assignment form; the last step is the result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expr {
    /// Steps; a step refers to earlier ones by index.
    pub steps: Vec<Step>,
}

/// Index of an earlier step of the same expression.
pub type StepId = u32;

/// One step of an [`Expr`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Step {
    /// The element of the node's input of that index.
    Input(u32),
    /// A floating-point constant (F32).
    Float(f32),
    /// An integer constant (I32).
    Int(i32),
    /// A dimension's value at run time (I32).
    Dim(Dim),
    /// A function of one operand.
    Unary(Unary, StepId),
    /// A function of two operands of the same type.
    Binary(Binary, StepId, StepId),
    /// The second where the first (Bool) is true, else the third.
    Select(StepId, StepId, StepId),
    /// Conversion to any type; the result is a word of its storage type. Floats round to the nearest narrower one, halves to
    /// even, and truncate towards zero to integers; integers wrap to narrower ones; `Bool` is "not equal to 0".
    Cast(DType, StepId),
    /// The same 32 bits read as another storage type; not `Bool`.
    Bits(DType, StepId),
    /// A test of a floating-point number (Bool).
    Test(Test, StepId),
}

/// What a [`Step::Test`] tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each variant is named after what it asks for")]
pub enum Test {
    Nan,
    PositiveInfinity,
    NegativeInfinity,
}

/// A function of one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each variant is named after the function")]
pub enum Unary {
    Neg,
    Abs,
    Sign,
    Square,
    Sqrt,
    Rsqrt,
    Recip,
    Exp,
    Ln,
    Sin,
    Cos,
    Tan,
    Tanh,
    Sigmoid,
    /// `x * sigmoid(x)`.
    Silu,
    /// `x / 2 * (1 + erf(x / sqrt 2))`. Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", eq. in 2.
    GeluErf,
    /// The tanh approximation of the same section.
    GeluTanh,
    Erf,
    Relu,
    Floor,
    Ceil,
    /// To the nearest integer, halves to even.
    Round,
    /// Logical of a `Bool`, bit by bit of an integer.
    Not,
    Acos,
    Acosh,
    Asin,
    Asinh,
    Atan,
    Atanh,
    Cosh,
    Sinh,
    /// `ln(1 + exp(x))`.
    Softplus,
}

/// A function of two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each variant is named after the function")]
pub enum Binary {
    Add,
    Sub,
    Mul,
    /// Of integers towards zero; by zero it gives the dividend.
    Div,
    /// With the dividend's sign; integers modulo zero give 0.
    Rem,
    Pow,
    /// NaN if either operand is NaN.
    Min,
    /// NaN if either operand is NaN.
    Max,
    /// Comparisons give `Bool`.
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// Logical of `Bool`s, bit by bit of integers, as the next two.
    And,
    Or,
    Xor,
    /// By the second operand; by 32 and more, or a negative number, everything is shifted out.
    ShiftLeft,
    /// As [`Binary::ShiftLeft`]; the sign of an `I32` is shifted in.
    ShiftRight,
}
