"""What SimCSE's paper, section 3 and appendix A, and princeton-nlp/SimCSE (49fa580a8537) give for BERT-base."""

SHARED = {
    "data.max_length": 32,
    "model.make": "text_encoder",
    "model.name": "bert-base-uncased",
    "model.pooling": "cls",
    "method.name": "simcse",
    "method.temperature": 0.05,
    "training.optimizer": "adamw",
    "training.betas": (0.9, 0.999),
    "training.weight_decay": 0.0,
    "training.schedule": "linear",
    "training.min_lr": 0.0,
    "training.warmup": 0,
    "training.clip_norm": 1.0,
    "training.eval_every": 125,
    "training.monitor": "val_sts/spearman",
}
WHITENED = {  # SupstarZh/WhitenedCSE (65fe70a5768e), its example script and layer
    "method.name": "whitenedcse",
    "method.copies": 3,
    "method.groups": 128,
    "method.shuffle": "each",
    "method.detach": True,
    "method.eps": 0.0,
    "method.kind": "zca",
    "method.reduction": "sum",
    "method.head": "mlp",
    "training.epochs": 1,
    "training.batch_size": 256,
    "training.lr": 1e-5,
}
DECLUTR = {  # JohnGiorgi/DeCLUTR (29973e9b5b05), training_config/declutr.jsonnet; its 4 documents are of one device
    "data.text_views": "declutr",
    "data.max_length": 512,
    "model.name": "roberta-base",
    "model.pooling": "mean",
    "method.head": "none",
    "method.temperature": 0.05,
    "method.masked_language": 1.0,
    "training.epochs": 1,
    "training.batch_size": 16,
    "training.lr": 5e-5,
    "training.weight_decay": 0.1,
    "training.clip_norm": 1.0,
}
VALUES = {
    "declutr-paper": DECLUTR,
    "whitenedcse-paper": SHARED | WHITENED,
    "simcse-paper": SHARED | {"training.epochs": 1, "training.batch_size": 64, "training.lr": 3e-5},
    "simcse-supervised-paper": SHARED
    | {
        "model.dense": "Tanh",
        "method.head": "none",
        "method.hard_negative_weight": 0.0,
        "training.epochs": 3,
        "training.batch_size": 512,
        "training.lr": 5e-5,
    },
}
