"""The peer of `decode.py`: transformers' `generate` in PyTorch, for the same sizes, shapes and work."""

import os
from collections.abc import Callable

import numpy as np
import torch
import transformers


def make_model(config, device: str, attention: str) -> transformers.T5ForConditionalGeneration:
    """T5 with the sizes and the dtype of a TransformerConfig, random weights, ready to generate on all cores."""
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    sizes = transformers.T5Config(
        vocab_size=config.vocab_size,
        d_model=config.emb_dim,
        d_kv=config.head_dim,
        num_heads=config.num_heads,
        num_layers=config.num_encoder_layers,
        num_decoder_layers=config.num_decoder_layers,
        d_ff=config.mlp_dim,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        tie_word_embeddings=False,
        decoder_start_token_id=0,
        attn_implementation=attention,
    )
    model = transformers.T5ForConditionalGeneration(sizes)
    if model.lm_head.weight is model.shared.weight:  # transformers 5 ties a new model's head whatever its config says
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight) * config.emb_dim**-0.5)
    return model.to(device=device, dtype=getattr(torch, config.dtype)).eval()


def make_decode(
    model: transformers.T5ForConditionalGeneration, beams: int, outputs: int, *, cache: str, compiled: bool
) -> Callable[[np.ndarray], np.ndarray]:
    """`generate` as it comes, but for the number of tokens; `cache` is `dynamic`, its default, or `static`."""
    settings = {"num_beams": beams, "min_new_tokens": outputs, "max_new_tokens": outputs, "do_sample": False}
    if cache == "static":
        settings |= {"cache_implementation": "static", "disable_compile": not compiled}
    if compiled:
        settings["compile_config"] = transformers.CompileConfig(fullgraph=False, mode="default")
        settings["compile_config"]._compile_all_devices = True  # on a CPU it does nothing without this

    def decode(inputs: np.ndarray) -> np.ndarray:
        ids = torch.from_numpy(inputs).long().to(model.device)
        with torch.inference_mode():
            tokens = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        return tokens[:, 1:].cpu().numpy()  # without the start token

    return decode
