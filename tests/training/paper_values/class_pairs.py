"""What the authors' released code gives for pairs of classes."""

VALUES = {
    "hydra-paper": {  # erow/FastSSL, model/simlap.py and its command line
        "data.views": "hydra",
        "data.n_views": 2,
        "model.preset": "resnet50",
        "model.projector": "hydra",
        "method.name": "hydra",
        "method.rule": "arbitrary",
        "method.gate": "sigmoid",
        "method.fuse": True,
        "method.gate_width": 512,
        "method.gate_hidden": 1024,
        "method.temperature": 0.1,
        "method.form": "dot",
        "method.reduction": "row",
        "training.epochs": 1000,
        "training.batch_size": 512,
        "training.optimizer": "adamw",
        "training.lr": 1e-4,
        "training.betas": (0.9, 0.95),
        "training.weight_decay": 0.05,
        "training.schedule": "constant",
        "training.warmup": 10 * (1_281_167 // 512),
        "training.clip_norm": None,
    }
}
