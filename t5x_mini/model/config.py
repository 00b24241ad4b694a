"""What a transformer is made of: sizes, architecture, numerics. No arrays here."""

from __future__ import annotations

import dataclasses
from typing import Literal

Architecture = Literal["encoder_decoder", "prefix_lm", "causal_lm"]
ARCHITECTURES: tuple[Architecture, ...] = ("encoder_decoder", "prefix_lm", "causal_lm")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """A T5-style transformer. The defaults are T5 1.1's; `gin/models/` has every published size.

    Attributes:
        architecture: `encoder_decoder`, `prefix_lm` or `causal_lm`. The two language models have no encoder and use
            `num_decoder_layers` layers, so that all three cost about the same per token of the text.
        vocab_size: rows of the embedding. None: the task's vocabulary, rounded up to a multiple of 128.
        emb_dim: width of the residual stream.
        num_heads: attention heads.
        head_dim: width of one head; `num_heads * head_dim` need not be `emb_dim`.
        num_encoder_layers: layers of the encoder; unused by the decoder-only architectures.
        num_decoder_layers: layers of the decoder, or of the only stack.
        mlp_dim: width of the MLP's hidden layer.
        mlp_activations: one activation (`('relu',)`, T5 1.0) or a gated pair (`('gelu', 'linear')`, T5 1.1).
        logits_via_embedding: True ties the output head to the embedding (T5 1.0) and scales the logits by
            1/sqrt(emb_dim); False is a head of its own, unscaled (T5 1.1).
        dropout_rate: of embeddings, attention probabilities, MLP hidden layer and sublayer outputs.
        dtype: of activations and matrix products; parameters, softmax and logits are float32.
        relpos_buckets: buckets of the relative position bias.
        relpos_max_distance: distances from here on share the last bucket.
        scan_layers: one compiled layer in a loop (fast to compile) or every layer written out; the numbers, the
            parameters and the checkpoints are the same.
        remat: what the backward pass computes again instead of keeping: `none`, `minimal` (keeps the matrix
            products without a batch dimension) or `full` (keeps only each layer's input).
    """

    architecture: Architecture = "encoder_decoder"
    vocab_size: int | None = None
    emb_dim: int = 512
    num_heads: int = 6
    head_dim: int = 64
    num_encoder_layers: int = 8
    num_decoder_layers: int = 8
    mlp_dim: int = 1024
    mlp_activations: tuple[str, ...] = ("gelu", "linear")
    logits_via_embedding: bool = False
    dropout_rate: float = 0.0
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    relpos_buckets: int = 32
    relpos_max_distance: int = 128
    scan_layers: bool = True
    remat: Literal["none", "minimal", "full"] = "none"

    @property
    def has_encoder(self) -> bool:
        return self.architecture == "encoder_decoder"
