"""A tiny random SentenceTransformer of word vectors: it loads in milliseconds."""

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

WORDS = ("[UNK]", "hard", "negative", "query", "passage", "of", "a", "right", "wrong", "text")


def make_static_model(similarity="cosine", seed=0):
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    weights = torch.randn(len(WORDS), 16, generator=torch.Generator().manual_seed(seed))
    module = StaticEmbedding(tokenizer, embedding_weights=weights)
    return SentenceTransformer(modules=[module], device="cpu", similarity_fn_name=similarity)


def save_static_model(folder, **options):
    make_static_model(**options).save(str(folder), create_model_card=False)
    return folder
