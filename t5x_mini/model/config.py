"""What a transformer is made of: sizes, architecture, numerics. No arrays here."""

from __future__ import annotations

import dataclasses
import typing
from typing import Literal

from t5x_mini import config_checks
from t5x_mini.errors import UserError

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
        share_layers: the encoder's layers are the decoder's, less the cross-attention: half the parameters for the same
            FLOPs (Raffel et al. 2020, section 3.2, "shared"). Each stack keeps its own relative position bias, whose
            buckets mean other distances, and its own last norm.
        mlp_dim: width of the MLP's hidden layer.
        mlp_activations: one activation (`('relu',)`, T5 1.0) or a gated pair (`('gelu', 'linear')`, T5 1.1).
        logits_via_embedding: True ties the output head to the embedding (T5 1.0) and scales the logits by
            1/sqrt(emb_dim); False is a head of its own, unscaled (T5 1.1).
        dropout_rate: of embeddings, attention probabilities, MLP hidden layer and sublayer outputs.
        dtype: of activations and matrix products; parameters, softmax and logits are float32.
        relpos_buckets: buckets of the relative position bias.
        relpos_max_distance: distances from here on share the last bucket.
        relpos_bias_per_layer: every layer has a relative position bias of its own (umT5); False: a stack shares one.
        attention: `plain`, or `flash`: a kernel for TPUs that keeps no number for each pair of query and key, for rows
            of thousands of tokens (`model/flash.py`).
        scan_layers: one compiled layer in a loop (fast to compile) or every layer written out; the numbers, the
            parameters and the checkpoints are the same.
        remat: what the backward pass computes again instead of keeping: `none`; `minimal` (keeps each layer's input
            and its products with parameters); `full` (keeps only the input); or `offload` (keeps what `minimal` does,
            but in the memory of the host).
    """

    architecture: Architecture = "encoder_decoder"
    vocab_size: int | None = None
    emb_dim: int = 512
    num_heads: int = 6
    head_dim: int = 64
    num_encoder_layers: int = 8
    num_decoder_layers: int = 8
    share_layers: bool = False
    mlp_dim: int = 1024
    mlp_activations: tuple[str, ...] = ("gelu", "linear")
    logits_via_embedding: bool = False
    dropout_rate: float = 0.0
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    relpos_buckets: int = 32
    relpos_max_distance: int = 128
    relpos_bias_per_layer: bool = False
    attention: Literal["plain", "flash"] = "plain"
    scan_layers: bool = True
    remat: Literal["none", "minimal", "full", "offload"] = "none"

    def __post_init__(self):
        """Raises UserError for layers that can't be shared."""
        if not self.share_layers:
            return
        if not self.has_encoder:
            raise UserError(
                f"TransformerConfig.share_layers shares the decoder's layers with an encoder; a {self.architecture} "
                "has none: write share_layers = False."
            )
        if self.num_encoder_layers != self.num_decoder_layers:
            raise UserError(
                f"TransformerConfig.share_layers needs as many layers in the encoder as in the decoder, and found "
                f"{self.num_encoder_layers} and {self.num_decoder_layers}: write num_encoder_layers = "
                f"{self.num_decoder_layers}."
            )
        if self.relpos_bias_per_layer:
            raise UserError(
                "TransformerConfig.share_layers is for models with one relative position bias a stack, since a layer's "
                "own one would mean other distances in the encoder: write relpos_bias_per_layer = False."
            )

    @property
    def has_encoder(self) -> bool:
        return self.architecture == "encoder_decoder"


# Which methods of decoding read an option, where not all do.
METHODS_OF_OPTION = {
    **dict.fromkeys(("temperature", "top_k", "top_p", "seed"), ("sample",)),
    "length_penalty": ("beam",),
    "num_decodes": ("sample", "beam"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """How a model writes its answer (`model/decoding.py`). The defaults write the most likely next token each time.

    Attributes:
        method: `greedy`; `sample`, which draws each token; or `beam`, which looks for the most likely answer.
        max_length: tokens of an answer at most, EOS included; None: as many as the targets of training have.
        min_length: no EOS before so many tokens.
        num_decodes: answers a row: samples, or beams, all of which are given back, the best first.
        temperature: `sample` divides the logits by it; towards 0 it becomes `greedy`.
        top_k: `sample` draws from the so many likeliest tokens; 0: from all.
        top_p: `sample` draws from the likeliest tokens that have this probability together.
        length_penalty: `beam` divides an answer's log-probability by ((5 + length) / 6) to this power (T5's alpha; Wu
            et al. 2016).
        seed: of `sample`.
    """

    method: Literal["greedy", "sample", "beam"] = "greedy"
    max_length: int | None = None
    min_length: int = 0
    num_decodes: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    length_penalty: float = 0.6
    seed: int = 0

    def __post_init__(self):
        """Raises UserError for a value out of its range, and for an option that the method doesn't read."""
        methods = typing.get_args(typing.get_type_hints(DecodingConfig)["method"])
        if self.method not in methods:
            hint = config_checks.closest(str(self.method), methods)
            raise UserError(f"There is no decoding method {self.method!r}{hint} There are {', '.join(methods)}.")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            allowed = config_checks.range_of("DecodingConfig", field.name, value)
            if allowed:
                raise UserError(f"DecodingConfig.{field.name} is {value!r}: write a value that is {allowed}.")
            wanted = METHODS_OF_OPTION.get(field.name, methods)
            if self.method not in wanted and value != field.default:
                raise UserError(
                    f"DecodingConfig.{field.name} is {value!r}, which the method {self.method!r} doesn't read: write "
                    f"method = {' or '.join(map(repr, wanted))}, or leave {field.name} at {field.default!r}."
                )
        if self.max_length is not None and self.min_length > self.max_length:
            raise UserError(
                f"DecodingConfig.min_length is {self.min_length} and max_length {self.max_length}: write a min_length "
                "that is no larger."
            )
