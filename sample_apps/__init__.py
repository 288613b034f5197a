"""Apps that run on a bundle: each needs only a bundle and its runtime, no torch and no edgedistill."""
