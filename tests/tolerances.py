"""The one table of tolerances, each with its reason; all are the largest difference over the largest value."""

from mvgpt_runtime.goldens import tolerances

# Eager networks against transformers' and against float64 loops: float32 sums in another order.
EAGER = 1e-4

# Eager model against the published implementation's golden numbers. Both resizes are bit-equal to the published ones,
# so only the order of float32 sums differs. (One uint8 step in 1 % of the pixels would already give 6e-3.)
GOLDEN = 1e-5

# fp32 bundle against the eager model on equal pixels: kernels sum in another order than torch does.
FP32_BUNDLE = 1e-4

# A bundle against golden vectors from another machine. Apps need these too: they are in the package, with their
# reasons, and in every folder of vectors.
VECTORS = tolerances

# Quantized language model with trained weights (test_trained_model.py): the least share of its greedy answer that
# float32 would have chosen too, given the words before, by recipe. A first measurement, of the layers' linears alone:
# 0.875 with 8-bit weights, 0.59 with 4-bit ones in groups of 32. Tokens drawn at random have 0.
ANSWER_AGREEMENT = {"int8": 0.8, "mobile": 0.5}
# Most that such an answer may surprise float32, in nats per token: those two have 0.63 and 1.46, prose by a person 3.3
# (benchmarks/slm_quality.py), tokens drawn at random 13.5.
ANSWER_NATS = 2.0

# At full size (test_full_size.py). The bundle in `mobile`, 449.7 MB by its files.
BUNDLE_BYTES = 450e6
# Resident bytes above an interpreter with torch: what a phone with 4 GB can spare.
PEAK_BYTES = {"all loaded": 900e6, "low_memory": 600e6}
# A follow-up's time to its first token over the first question's, the video's loading included.
FOLLOW_UP_SHARE = 1 / 50
# What is left of the whole load when a stream's last frame arrives: that frame, selection, video encoder, 98 tokens.
STREAM_TAIL_SHARE = 1 / 5
