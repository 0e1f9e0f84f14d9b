"""A method trains the same under transformers' Trainer and in a Lightning module as in our own loop."""

import warnings

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from toy import Pairs, Plain, loader

from nearfar import train
from nearfar.data import Loader, Records
from nearfar.methods import BYOL, MoCo, SogCLR
from nearfar.models import image_encoder
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


STATEFUL = {
    "moco": lambda model: MoCo(model, queue_size=12, momentum=0.9),
    "byol": lambda model: BYOL(model, momentum=0.9, predictor_hidden=8, total_steps=4),
    "sogclr": lambda model: SogCLR(model, gamma=0.5),
}


@pytest.mark.parametrize("name", STATEFUL)
def test_queues_slow_copies_and_tables_move_alike_in_all_three(name, tmp_path):
    """Four steps of a method that keeps something, with batches of a `Loader`: weights and all that it keeps."""
    import lightning
    from transformers import Trainer, TrainingArguments

    source = Records([{"image": Image.new("RGB", (16, 16), (30 * i, 250 - 30 * i, 9))} for i in range(8)])
    config = CONFIG.with_overrides({"steps": 4, "lr": 1e-3, "schedule": "constant"})

    def fresh():
        torch.manual_seed(0)
        method = STATEFUL[name](image_encoder("micro-resnet", projector={"hidden": 8, "out": 4}))
        return method, Loader(source, batch_size=4, image_size=16, views="simclr", n_views=2)

    method, batches = fresh()
    own = train(method, batches, config=config, progress=False).method.state_dict()
    method, batches = fresh()
    quiet = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "logging_strategy": "no"}
    arguments = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=1, remove_unused_columns=False, max_steps=4, learning_rate=1e-3,
        lr_scheduler_type="constant", adam_beta1=config.betas[0], adam_beta2=config.betas[1],
        adam_epsilon=config.eps, max_grad_norm=0.0, **quiet,
    )  # fmt: skip
    Trainer(args=arguments, **for_trainer(method, batches)).train()
    check(method.state_dict(), own)
    method, batches = fresh()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_steps=4, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(lightning_module(method, steps=4, config=config, loader=batches), batches)
    check(method.state_dict(), own)
