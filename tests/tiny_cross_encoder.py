"""A tiny random CrossEncoder of the usual make, whose tokenizer knows a few words."""

import torch
from sentence_transformers import CrossEncoder
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def save_tiny_cross_encoder(folder, words, *, num_labels=1, seed=0, broken=False):
    """Write a model of one layer and 16 dimensions; a broken one gives NaN."""
    tokenizer = Tokenizer(WordLevel({word: place for place, word in enumerate([*SPECIAL, *words])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names).save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(SPECIAL) + len(words), hidden_size=16, intermediate_size=32, num_attention_heads=2,
        num_hidden_layers=1, num_labels=num_labels, initializer_range=1.0,
    )  # fmt: skip
    network = BertForSequenceClassification(config)
    if broken:
        torch.nn.init.constant_(network.classifier.weight, float("nan"))
    network.save_pretrained(folder)
    return str(folder)


def load_tiny_cross_encoder(folder):
    return CrossEncoder(str(folder), device="cpu")
