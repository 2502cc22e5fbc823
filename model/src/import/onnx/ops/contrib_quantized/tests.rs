//! Golden numbers are onnxruntime's.
