"""T5-style transformers in JAX: pretrain, finetune and evaluate encoder-decoders, prefix LMs and causal LMs."""

__version__ = "0.1.0"
