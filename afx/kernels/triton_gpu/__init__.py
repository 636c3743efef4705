"""The kernels as Triton programs for GPUs: tensors in and out, float64 inside, a lane per chunk of samples."""
