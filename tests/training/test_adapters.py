"""A method trains the same under transformers' Trainer and in a Lightning module as in our own loop."""

import warnings

import pytest
import torch
from torch.utils.data import DataLoader
from toy import Pairs, Plain, loader

from nearfar import train
from nearfar.training import TrainConfig
from nearfar.training.adapters import BatchDataset, for_trainer, lightning_module

STEPS = 10
CONFIG = TrainConfig(steps=STEPS, lr=0.02, warmup=0, schedule="linear", weight_decay=0.0, clip_norm=None)


@pytest.fixture(scope="module")
def ours():
    return train(Pairs(), loader(), config=CONFIG, progress=False).method.state_dict()


def check(actual, ours):
    for name, value in ours.items():
        torch.testing.assert_close(
            actual[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_under_the_trainer_of_transformers(ours, tmp_path):
    from transformers import Trainer, TrainingArguments

    method = Pairs()
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=1,
        remove_unused_columns=False,
        max_steps=STEPS,
        learning_rate=0.02,
        lr_scheduler_type="linear",
        adam_beta1=CONFIG.betas[0],
        adam_beta2=CONFIG.betas[1],
        adam_epsilon=CONFIG.eps,
        max_grad_norm=0.0,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
    )
    Trainer(args=arguments, **for_trainer(method, loader())).train()
    check(method.state_dict(), ours)


def test_in_a_lightning_module(ours, tmp_path):
    import lightning

    method = Pairs()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_steps=STEPS,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(
            lightning_module(method, steps=STEPS, config=CONFIG), DataLoader(BatchDataset(loader()), batch_size=None)
        )
    check(method.state_dict(), ours)


class Counting(Plain):
    """Without embeddings, so that our own loop accumulates, too."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def after_step(self, step):
        self.steps.append(step)


def test_accumulated_under_lightning_as_in_our_own_loop(tmp_path):
    """Batches of one size; `after_step` comes once a step of the optimiser, not once a batch."""
    import lightning

    settings = CONFIG.with_overrides({"steps": 4, "accumulate": 2})
    own = train(Counting(), loader(), config=settings, progress=False).method
    method = Counting()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_steps=4, accumulate_grad_batches=2, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        module = lightning_module(method, steps=4, config=settings)
        trainer.fit(module, DataLoader(BatchDataset(loader()), batch_size=None))
    check(method.state_dict(), own.state_dict())
    assert method.steps == own.steps == [1, 2, 3, 4]
