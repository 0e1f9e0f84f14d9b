"""The papers on pictures alone, sorted by slug: a part of `nearfar.papers.listing`."""

from nearfar.papers.paper import Paper

IMAGE_PAPERS = (
    Paper(
        "beclr",
        "BECLR",
        "BECLR: Batch Enhanced Contrastive Few-Shot Learning",
        "2402.02444",
        "image",
        home=("nearfar.methods.image.beclr", "nearfar.classifiers.transported_means"),
        recipes=("beclr", "beclr-paper"),
    ),
    Paper(
        "hydra",
        "Hydra",
        "Rethinking Positive Pairs in Contrastive Learning",
        "2410.18200",
        "image",
        home=("nearfar.methods.image.hydra", "nearfar.losses.gated_pairs", "nearfar.methods.class_pairs"),
        recipes=("hydra", "hydra-paper"),
    ),
    Paper(
        "isogclr",
        "iSogCLR",
        "Not All Semantics are Created Equal: Contrastive Self-supervised Learning with Automatic Temperature Individualization",
        "2305.11965",
        "image",
        home=("nearfar.methods.image.sogclr", "nearfar.losses.global_contrastive"),
        recipes=("isogclr", "isogclr-paper", "isogclr-pairs", "isogclr-pairs-paper"),
    ),
    Paper(
        "mcl",
        "MCL",
        "Learning the Unlearned: Mitigating Feature Suppression in Contrastive Learning",
        "2402.11816",
        "image",
        home=(
            "nearfar.data.batches.cluster_order",
            "nearfar.data.mining.clusters",
            "nearfar.models.concat_encoder",
            "nearfar.methods.image.within_clusters",
            "nearfar.losses.within_groups",
        ),
        recipes=("mcl", "mcl-pairs", "mcl-paper"),
    ),
    Paper(
        "multiview",
        "MV-InfoNCE, MV-DHEL",
        "A Principled Framework for Multi-View Contrastive Learning",
        "2507.06979",
        "image",
        home=("nearfar.methods.image.multiview", "nearfar.losses.multi_view", "nearfar.losses.poly_view"),
        recipes=("multiview", "multiview-paper"),
    ),
    Paper(
        "pixpro",
        "PixPro",
        "Propagate Yourself: Exploring Pixel-Level Consistency for Unsupervised Visual Representation Learning",
        "2011.10043",
        "image",
        home=("nearfar.methods.image.pixpro", "nearfar.losses.pixel_consistency", "nearfar.losses.pix_contrast"),
        recipes=("pixpro", "pixpro-paper"),
    ),
    Paper(
        "sepclr",
        "SepCLR",
        "Separating common from salient patterns with Contrastive Representation Learning",
        "2402.11928",
        "image",
        home=(
            "nearfar.methods.image.sepclr",
            "nearfar.losses.common_salient",
            "nearfar.models.image.common_salient_encoder",
        ),
        recipes=("sepclr", "sepclr-paper"),
    ),
)
