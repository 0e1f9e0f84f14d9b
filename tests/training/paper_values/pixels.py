"""What the recipe of pixel contrast at the paper's scale holds: the values of the released script for 100 epochs."""

VALUES = {
    "pixpro-paper": {  # tools/pixpro_base_r50_100ep.sh of github zdaxie/PixPro, commit e390d6b
        "data.views": "byol",
        "data.n_views": 2,
        "model.preset": "resnet50",
        "method.name": "pixpro",
        "method.pixels": "propagated",
        "method.threshold": 0.7,
        "method.gamma": 2.0,
        "method.layers": 1,
        "method.unit_values": True,
        "method.scale": 2.0,
        "method.instance_weight": 0.0,
        "method.hidden": 4096,
        "method.out": 256,
        "method.momentum": 0.99,
        "method.normalise": "batch",
        "training.epochs": 100,
        "training.batch_size": 8 * 128,
        "training.optimizer": "lars",
        "training.lr": 1.0 * 8 * 128 / 256,
        "training.betas": (0.9, 0.999),
        "training.weight_decay": 1e-5,
        "training.schedule": "cosine",
        "training.min_lr": 1e-6,
        "training.warmup": 5 * (1_281_167 // (8 * 128)),
        "training.clip_norm": None,
        "training.precision": "fp16",
    }
}
