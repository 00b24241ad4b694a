"""Sizes of a decoder-only T5-style language model, as t5x_mini trains them."""

from transformers import PretrainedConfig


class T5XMiniConfig(PretrainedConfig):
    """A prefix or causal language model.

    Attributes:
        architecture: `prefix_lm` (the prompt sees itself in both directions) or `causal_lm`.
        vocab_size: rows of the embedding, which may be more than the tokenizer has ids.
        emb_dim: width of the residual stream.
        num_layers: layers.
        num_heads: attention heads.
        head_dim: width of a head.
        mlp_dim: width of the MLP's hidden layer.
        mlp_activations: one activation, or a gated pair.
        tie_word_embeddings: the output head is the embedding, and the logits are scaled by 1/sqrt(emb_dim).
        dropout_rate: while training.
        relpos_buckets: buckets of the relative position bias.
        relpos_max_distance: distances from here on share the last bucket.
        relpos_bias_per_layer: every layer has a bias of its own; False: all share one.
        pad_token_id: 0; the beginning of a row is 0 too, as in T5's decoder.
    """

    model_type = "t5x_mini"
    attribute_map = {
        "hidden_size": "emb_dim",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "intermediate_size": "mlp_dim",
    }

    architecture: str = "causal_lm"
    vocab_size: int = 32128
    emb_dim: int = 512
    num_layers: int = 8
    num_heads: int = 6
    head_dim: int = 64
    mlp_dim: int = 1024
    mlp_activations: tuple = ("gelu", "linear")
    tie_word_embeddings: bool = False
    dropout_rate: float = 0.0
    relpos_buckets: int = 32
    relpos_max_distance: int = 128
    relpos_bias_per_layer: bool = False
    pad_token_id: int = 0
    bos_token_id: int = 0
    eos_token_id: int = 1
