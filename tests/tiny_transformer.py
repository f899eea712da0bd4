"""A tiny random SentenceTransformer of the usual make, with the tokenizer of another model: quick on long texts."""

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling
from transformers import AutoTokenizer, BertConfig, BertModel, Qwen3Config, Qwen3Model


def make_tiny_model(tokenizer_path, folder, *, pooling="mean", include_prompt=True, decoder=False, length=512):
    """Return a model of one layer, 32 dimensions and a dense layer to 16; a decoder is padded on the left."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_path, padding_side="left" if decoder else "right")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1}
    if decoder:
        network = Qwen3Model(Qwen3Config(vocab_size=len(tokenizer), num_key_value_heads=1, head_dim=16, **sizes))
    else:
        network = BertModel(BertConfig(vocab_size=len(tokenizer), **sizes))
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    transformer = Transformer(str(folder), max_seq_length=length)
    pool = Pooling(32, pooling, include_prompt=include_prompt)
    return SentenceTransformer(modules=[transformer, pool, Dense(32, 16), Normalize()], device="cpu")
