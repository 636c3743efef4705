"""The kernels as Triton programs for GPUs: tensors in and out, recursions in float64, a lane per chunk of samples.

Arguments of a kernel are annotated by what they are inside it: `tl.tensor` (a number, a pointer, or a block of either),
`tl.tuple`, or `tl.constexpr`, for which Triton compiles a kernel per value. `tl.tensor` does not affect compilation:
the launch passes a torch tensor or a number, and Triton takes its type. `int` does: Triton reads it as int32.
"""
