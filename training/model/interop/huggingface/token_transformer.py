"""Export of the trained encoder of token ids, as LDMBertModel, and of its tokenizer."""

from training.model.conditioners.token_transformer import TokenTransformer
from training.model.interop.huggingface.component import VERSION, Component, Names, rename_tensors


def transformer_component(model: TokenTransformer) -> Component:
    """Export the encoder as LDMBertModel, which does not mask tokens either."""
    tensors = rename_tensors(model, token_transformer_names(model))
    config = {
        "architectures": ["LDMBertModel"],
        "model_type": "ldmbert",
        "_diffusers_version": VERSION,
        "vocab_size": model.vocabulary,
        "max_position_embeddings": model.length,
        "d_model": model.width,
        "encoder_layers": model.depth,
        "encoder_ffn_dim": len(tensors["model.layers.0.fc1.bias"]),
        "encoder_attention_heads": model.heads,
        "head_dim": model.head_width,
        "activation_function": "gelu",
        "dropout": 0.0,
    }
    embedding = model.token_embedding.weight
    # Their class declares a language modelling head, which nothing uses.
    tensors["to_logits.weight"] = embedding.new_zeros(embedding.shape)
    tensors["to_logits.bias"] = embedding.new_zeros(len(embedding))
    return Component("latent_diffusion", "LDMBertModel", config, tensors, weights_file="model.safetensors")


def token_transformer_names(model: TokenTransformer) -> Names:
    """Yield the names of the embeddings, the blocks and the final norm."""
    yield "token_embedding", "model.embed_tokens"
    yield "position_embedding", "model.embed_positions"
    yield "norm", "model.layer_norm"
    for i in range(model.depth):
        pairs = {"norm1": "self_attn_layer_norm", "norm2": "final_layer_norm", "inner": "fc1", "outer": "fc2"}
        pairs |= {f"attention.{part}": f"self_attn.{part[0]}_proj" for part in ("query", "key", "value")}
        pairs["attention.out"] = "self_attn.out_proj"
        for mine, theirs in pairs.items():
            yield f"blocks.{i}.{mine}", f"model.layers.{i}.{theirs}"


def tokenizer_component(assets: dict[str, bytes], *, padding: str, length: int) -> Component:
    """Export the tokenizer.json among `assets` unchanged, with the configuration that transformers needs for it."""
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": padding, "model_max_length": length}
    return Component(
        "transformers", "PreTrainedTokenizerFast", config, config_file="tokenizer_config.json", files=assets
    )
