"""Small towers of many kinds, as configs of transformers."""

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
VIT = {"model_type": "vit", **SMALL, "patch_size": 8, "image_size": 32}
BERT = {"model_type": "bert", **SMALL, "max_position_embeddings": 16}
CLIP_VISION = {"model_type": "clip_vision_model", **SMALL, "image_size": 32, "patch_size": 8}
CONVNEXT = {"model_type": "convnext", "num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1]}
EFFICIENTNET = {
    "model_type": "efficientnet",
    "image_size": 32,
    "hidden_dim": 1280,
    "num_block_repeats": [1, 1],
    "in_channels": [32, 16],
    "out_channels": [16, 24],
    "kernel_sizes": [3, 3],
    "strides": [1, 2],
    "expand_ratios": [1, 6],
    "depthwise_padding": [],
    "width_coefficient": 1.0,
}
IMAGES = {
    "vit": (VIT, "cls", 1, 16),
    "deit": ({"model_type": "deit", **SMALL, "image_size": 32, "patch_size": 8}, "cls", 2, 16),
    "dinov2-registers": (
        {
            "model_type": "dinov2_with_registers",
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
            "num_register_tokens": 3,
        },
        "cls",
        4,
        16,
    ),
    "dinov2": (
        {
            "model_type": "dinov2",
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
        "cls",
        1,
        16,
    ),
    "clip": (CLIP_VISION, "tower", 1, 16),
    "siglip": ({"model_type": "siglip_vision_model", **SMALL, "image_size": 32, "patch_size": 8}, "tower", 0, 16),
    "convnext": (CONVNEXT, "tower", 0, 16),
    "efficientnet": (EFFICIENTNET, "mean", 0, 64),
    "resnet": (
        {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
        "mean",
        0,
        16,
    ),
    "swin": (
        {
            "model_type": "swin",
            "image_size": 32,
            "patch_size": 4,
            "embed_dim": 8,
            "depths": [1, 1],
            "num_heads": [2, 2],
            "window_size": 4,
        },
        "mean",
        0,
        16,
    ),
}
TEXTS = {
    "bert": (BERT, "cls"),
    "distilbert": ({"model_type": "distilbert", "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48}, "cls"),
    "roberta": ({"model_type": "roberta", **SMALL, "max_position_embeddings": 24, "pad_token_id": 0}, "cls"),
    "modernbert": ({"model_type": "modernbert", **SMALL, "global_attn_every_n_layers": 2, "cls_token_id": 2}, "cls"),
    "gpt2": ({"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 16}, "eos"),
    "t5": ({"model_type": "t5", "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2}, "mean"),
    "clip": ({"model_type": "clip_text_model", **SMALL, "max_position_embeddings": 16}, "eos"),
    "xclip": ({"model_type": "xclip_text_model", **SMALL, "max_position_embeddings": 16}, "eos"),
    "siglip": ({"model_type": "siglip_text_model", **SMALL, "max_position_embeddings": 16}, "tower"),
    "llama": ({"model_type": "llama", **SMALL, "num_key_value_heads": 2}, "eos"),
}
