"""A method under the `Trainer` of transformers: SigLIP on the embedded world, then retrieval on unseen concepts.

    python examples/under_trainer.py 300

The Trainer keeps the loop: its optimiser, schedule, logs and checkpoints. The number is how many steps to train.
"""

import sys

from transformers import Trainer, TrainingArguments

import nearfar
from nearfar.data import Loader, train_tokenizer, world
from nearfar.evaluation import evaluate
from nearfar.methods import SigLIP
from nearfar.training.adapters import for_trainer

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 300

train, test = world.emoji("train"), world.emoji("test", styles=["noto"])
model = nearfar.models.create("tiny", tokenizer=train_tokenizer(train.texts()))
method = SigLIP(model, share_duplicates=True)  # an emoji in five styles is one thing
loader = Loader(train, batch_size=32, image_size=model.image_size, tokenizer=model.tokenizer)

arguments = TrainingArguments(
    output_dir="runs/under-trainer",
    max_steps=STEPS,
    learning_rate=1e-3,
    warmup_steps=STEPS // 10,
    lr_scheduler_type="cosine",
    per_device_train_batch_size=1,  # the loader makes whole batches
    remove_unused_columns=False,
    dataloader_pin_memory=False,
    logging_steps=5,
    save_strategy="no",
    report_to=[],
)
trainer = Trainer(args=arguments, **for_trainer(method, loader))
trainer.train()

losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
retrieval = evaluate(model, test, ["retrieval"], captions=1)["retrieval"]
print(retrieval)
