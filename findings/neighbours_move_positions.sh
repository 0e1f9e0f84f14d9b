#!/usr/bin/env bash
# sentence-transformers 6.2.0 (transformers 5.23.0): with texts padded on the left, a BERT's embedding of a text depends
# on the longest text of its batch.
#
# Behaviour: where the tokenizer's padding_side is "left", as for models that pool the last token, an absolute position
# embedding counts from the first column, padding included. A text that is shorter than the longest of its batch is read
# as if it began further on: of a random BERT its cosine with itself embedded alone is 0.59 to 0.88, by the mean of tokens
# as by the last one. Padded on the right it is 1. No error, no warning.
# In nearfar: texts are padded on the right, and the last token is the last attended one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install -q torch==2.13.0
env/bin/pip install -q sentence-transformers==6.2.0 transformers==5.23.0
env/bin/python - <<'PYTHON'
import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

TEXTS = ["fox", "two dogs", "a boat at sea in a storm of the year"]
words = sorted({word for text in TEXTS for word in text.split()})
vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
inner.pre_tokenizer = pre_tokenizers.Whitespace()
inner.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=32, **special).save_pretrained("bert")
torch.manual_seed(0)
shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
BertModel(BertConfig(vocab_size=len(vocabulary), initializer_range=0.2, **shape)).save_pretrained("bert")


def with_itself(side, pooling):
    """Each text's cosine between its embedding in the batch and alone."""
    transformer = Transformer("bert")
    transformer.tokenizer.padding_side = side
    model = SentenceTransformer(modules=[transformer, Pooling(32, pooling_mode=pooling)], device="cpu")
    options = {"normalize_embeddings": True}
    together, alone = model.encode(TEXTS, **options), [model.encode([text], **options)[0] for text in TEXTS]
    return (together * np.stack(alone)).sum(1)


for pooling in ("mean", "lasttoken"):
    for side in ("right", "left"):
        cosines = with_itself(side, pooling)
        print(f"{pooling}, padded on the {side}: {cosines.round(3).tolist()}")
        assert cosines[2] > 0.9999  # the longest is never padded
        assert (cosines[:2] > 0.9999).all() if side == "right" else (cosines[:2] < 0.98).all()
PYTHON
echo "as described"
