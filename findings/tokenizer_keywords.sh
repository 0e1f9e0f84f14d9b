#!/usr/bin/env bash
# transformers 5.24.0: a tokenizer made with the keywords of version 4 (vocab_file=, merges_file=) comes out empty.
#
# Behaviour: BertTokenizer(vocab_file=PATH) and CLIPTokenizer(vocab_file=PATH, merges_file=PATH) raise nothing, warn of
# nothing and hold their special tokens alone. Every word of every text is the unknown token, so that a tower sees how
# long a caption is and nothing else; save_pretrained writes the empty tokenizer. The same paths given as the first
# arguments, or as vocab= and merges=, are read.
# In nearfar: a tokenizer that knows nothing but its special tokens is refused where a model is made or loaded.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install -q transformers==5.24.0 tokenizers==0.23.3
env/bin/python - <<'PYTHON'
import json
from pathlib import Path

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
Path("vocab.txt").write_text("\n".join([*SPECIAL, "a", "red", "car", "green", "tree"]) + "\n")
trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
trained.pre_tokenizer = pre_tokenizers.Whitespace()
ends = ["<|startoftext|>", "<|endoftext|>"]
trainer = trainers.BpeTrainer(vocab_size=80, end_of_word_suffix="</w>", special_tokens=ends, show_progress=False)
trained.train_from_iterator(["a red car", "a green tree"] * 5, trainer)
model = json.loads(trained.to_str())["model"]
Path("vocab.json").write_text(json.dumps(model["vocab"]))
Path("merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]) + "\n")

print("transformers", transformers.__version__)
bert = transformers.BertTokenizer(vocab_file="vocab.txt")
clip = transformers.CLIPTokenizer(vocab_file="vocab.json", merges_file="merges.txt")
for name, tokenizer, specials in (("BERT", bert, 5), ("CLIP", clip, 2)):
    red, green = (tokenizer(text)["input_ids"] for text in ("red car", "green car"))
    print(f"{name} by the old keywords: {len(tokenizer)} tokens; 'red car' {red}")
    assert len(tokenizer) == specials
    assert name == "CLIP" or red == green
bert.save_pretrained("saved")
assert len(transformers.BertTokenizer.from_pretrained("saved")) == 5
for name, tokenizer, size in (
    ("BERT", transformers.BertTokenizer("vocab.txt"), 10),
    ("CLIP", transformers.CLIPTokenizer(vocab="vocab.json", merges="merges.txt"), len(model["vocab"])),
):
    print(f"{name} by the new ones: {len(tokenizer)} tokens; 'red car' {tokenizer('red car')['input_ids']}")
    assert len(tokenizer) == size
PYTHON
echo "as described"
