"""The kernels as plain torch programs: the definition that every back end is tested against."""
