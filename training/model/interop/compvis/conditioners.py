"""Readers of their embedders of conditions."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from training.model.conditioners import Conditioner
from training.model.conditioners.classes import ClassConditioner
from training.model.conditioners.conditioner import Entry
from training.model.conditioners.layout import LayoutConditioner
from training.model.conditioners.semantic_map import SemanticMapConditioner
from training.model.conditioners.text import TextConditioner
from training.model.conditioners.token_ids import TokenIdsConditioner
from training.model.conditioners.token_transformer import TransformerConditioner
from training.model.interop.compvis.reading import Names, Source, check_counts, check_parameters


def class_embedder(
    params: Mapping[str, Any], state_dict: Mapping[str, Tensor], null: int | None = None
) -> tuple[Conditioner, Names]:
    """Read `ClassEmbedder`. null: the class that is the null condition, which a request cannot ask for.

    A model that was trained without a null condition (`cin256`, 1000 classes) keeps its last class, which then stands
    for the null condition as well; guide it with scale 1 only.
    """
    check_parameters(params, ("embed_dim", "n_classes", "key"), {})
    check_counts(params, "embed_dim", *{"n_classes"} & params.keys())
    model = table_of_classes(params.get("n_classes", 1000), params["embed_dim"], null)
    return model, iter([("embedding", Source("embedding"))])


def table_of_classes(rows: int, width: int, null: int | None, entry: Entry = "cross_attention") -> ClassConditioner:
    """Make the conditioner of a table of classes. A null condition in its last row is not counted as a class."""
    if null == rows - 1:
        return ClassConditioner(rows - 1, width, entry)
    return ClassConditioner(rows, width, entry, null=rows - 1 if null is None else null)


def bert_embedder(
    params: Mapping[str, Any],
    state_dict: Mapping[str, Tensor],
    assets: Mapping[str, bytes] | None = None,
    classes: int | None = None,
) -> tuple[Conditioner, Names]:
    """Read `BERTEmbedder` and `TransformerEmbedder`.

    They are for texts if `assets` has a tokenizer, for layouts if `classes` is the number of labels, else for token
    ids. A layout is three tokens an object, and two more of the crop, as in the released model (92 tokens), which knows
    groups of objects as well.
    """
    check_parameters(
        params,
        ("n_embed", "n_layer", "vocab_size", "max_seq_len", "device", "use_tokenizer", "embedding_dropout"),
        {},
    )
    check_counts(params, "n_embed", "n_layer", *{"vocab_size", "max_seq_len"} & params.keys())
    width, depth, length = params["n_embed"], params["n_layer"], params.get("max_seq_len", 77)
    vocabulary = params.get("vocab_size", 30522)
    model: TransformerConditioner
    if assets:
        model = TextConditioner(width, depth, length, assets=assets)
        if model.transformer.vocabulary != vocabulary:
            found = model.transformer.vocabulary
            raise ValueError(
                f"vocab_size: {vocabulary}; the tokenizer has {found} word pieces; give the one of the model"
            )
    elif classes is not None:
        objects, rest = divmod(length, 3)
        if rest == 1:
            raise ValueError(f"max_seq_len: {length} is no layout; permitted: 3 tokens an object, and 2 of a crop")
        crops = rest == 2
        model = LayoutConditioner(classes, width, depth, objects, vocabulary, crops=crops, groups=crops)
    else:
        model = TokenIdsConditioner(vocabulary, length, width, depth)
    return model, transformer_names(depth)


def transformer_names(depth: int) -> Names:
    """Yield the names in their x-transformers encoder, a list of attention and feed-forward layers with norms."""
    yield "transformer.token_embedding", Source("transformer.token_emb")
    yield "transformer.position_embedding", Source("transformer.pos_emb.emb")
    yield "transformer.norm", Source("transformer.norm")
    for i in range(depth):
        ours = f"transformer.blocks.{i}"
        attention, feed_forward = (f"transformer.attn_layers.layers.{2 * i + k}" for k in (0, 1))
        yield f"{ours}.norm1", Source(f"{attention}.0")
        for mine, theirs in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("out", "to_out")):
            yield f"{ours}.attention.{mine}", Source(f"{attention}.1.{theirs}")
        yield f"{ours}.norm2", Source(f"{feed_forward}.0")
        yield f"{ours}.inner", Source(f"{feed_forward}.1.net.0.0")
        yield f"{ours}.outer", Source(f"{feed_forward}.1.net.2")


def spatial_rescaler(params: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> tuple[Conditioner, Names]:
    """Read `SpatialRescaler` over one-hot maps of labels."""
    check_parameters(params, ("n_stages", "method", "in_channels", "out_channels"), {"multiplier": 0.5, "bias": False})
    if params.get("out_channels") is None:
        raise ValueError("out_channels: missing; a rescaler that does not mix channels cannot be read")
    check_counts(params, "out_channels", *{"in_channels"} & params.keys())
    stages = params.get("n_stages", 1)
    if type(stages) is not int or stages < 0:
        raise ValueError(f"n_stages: {stages!r} cannot be read; permitted: an integer, at least 0")
    model = SemanticMapConditioner(
        params.get("in_channels", 3),
        params["out_channels"],
        stages,
        params.get("method", "bilinear"),
    )
    return model, iter([("rescaler.project", Source("channel_mapper"))])
