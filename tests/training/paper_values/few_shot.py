"""What the few-shot papers' recipes hold."""

VALUES = {
    "beclr-paper": {  # the released configuration for a ResNet-18 on miniImageNet
        "data.views": "beclr",
        "data.n_views": 2,
        "model.preset": "resnet18",
        "model.projector": {"layers": 3, "hidden": 512, "out": 512, "norm": "all"},
        "method.name": "beclr",
        "method.neighbours": 5,
        "method.start_epoch": 60,
        "method.clusters": 200,
        "method.memory_size": (40 * 200 // (2 * 256) + 1) * 2 * 256 + 1,  # 8,193
        "method.recluster_every": 60,
        "method.epsilon": 0.1,
        "method.temperature": 2.0,
        "method.weight": 0.1,
        "method.momentum": 0.995,
        "method.predictor_hidden": 128,
        "method.masked": 0.15,
        "training.epochs": 400,
        "training.batch_size": 256,
        "training.optimizer": "sgd",
        "training.lr": 0.3 * 256 / 256,
        "training.betas": (0.9, 0.999),
        "training.weight_decay": 1e-4,
        "training.schedule": "cosine",
        "training.min_lr": 1e-6,
        "training.warmup": 0,
        "training.clip_norm": None,
        "training.precision": "fp16",
        "evaluation.protocols": ["few_shot"],
        "evaluation.options": {
            "few_shot": {"ways": 5, "shots": [1, 5], "queries": 15, "episodes": 2000, "rule": "logistic"}
        },
    }
}
