"""The one table of tolerances, each with its reason; all are the largest difference over the largest value."""

# Eager networks against transformers' and against float64 loops: float32 sums in another order.
EAGER = 1e-4

# Eager model against the published implementation's golden numbers. Both resizes are bit-equal to the published ones,
# so only the order of float32 sums differs. (One uint8 step in 1 % of the pixels would already give 6e-3.)
GOLDEN = 1e-5

# fp32 bundle against the eager model on equal pixels: kernels sum in another order than torch does.
FP32_BUNDLE = 1e-4

# Quantized language model with trained weights (test_trained_model.py): the least share of its greedy answer that
# float32 would have chosen too, given the words before, by recipe.
ANSWER_AGREEMENT = {"int8": 0.9, "mobile": 0.75}
# Most that such an answer may surprise float32, in nats per token. Fluent ones are far below 1, prose by a person has
# 3.3 (benchmarks/slm_quality.py), tokens drawn at random more than 10.
ANSWER_NATS = 1.5
