"""The one table of tolerances, each with its reason; all are the largest difference over the largest value."""

# Eager networks against transformers' and against float64 loops: float32 sums in another order.
EAGER = 1e-4

# Eager model against the published implementation's golden numbers. Both resizes are bit-equal to the published ones,
# so only the order of float32 sums differs. (One uint8 step in 1 % of the pixels would already give 6e-3.)
GOLDEN = 1e-5

# fp32 bundle against the eager model on equal pixels: kernels sum in another order than torch does.
FP32_BUNDLE = 1e-4
