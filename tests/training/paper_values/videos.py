"""What the recipe of video recognition at the paper's scale holds: the values of the released code for Kinetics-400."""

VALUES = {
    "xclip-paper": {  # X-CLIP of github microsoft/VideoX
        "data.views": "x-clip",
        "model.frames": 8,
        "model.messages": True,
        "model.integration_layers": 1,
        "model.prompt_layers": 2,
        "method.name": "xclip",
        "method.template": "{}",
        "method.smoothing": 0.1,
        "method.mixup": 0.8,
        "method.cutmix": 1.0,
        "method.added_lr": 10.0,
        "training.epochs": 30,
        "training.batch_size": 8 * 8 * 4,
        "training.lr": 8e-6,
        "training.betas": (0.9, 0.98),
        "training.eps": 1e-8,
        "training.weight_decay": 0.001,
        "training.schedule": "cosine",
        "training.min_lr": 8e-8,
        "training.warmup": 0.16667,
        "training.clip_norm": None,
        "training.precision": "fp16",
    }
}
