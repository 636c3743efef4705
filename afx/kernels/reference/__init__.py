"""The kernels in plain torch: the definition that every back end is tested against."""
