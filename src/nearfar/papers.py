"""The table of papers: title, arXiv id, kind, where each lives, its recipes and its reproduction.

`nearfar papers` prints it, the tables of README and docs are generated from it, and a test holds every name in it against the code.
A paper without `home` is not in yet.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from nearfar import lookup
from nearfar.tally import tally

if TYPE_CHECKING:
    from rich.table import Table


KINDS = ("image-text", "image", "text", "decoding", "vision-language models", "detection", "video", "speech")
"""What papers are about, in the order in which they are listed."""


@dataclass(frozen=True)
class Paper:
    """One paper and where to find it in the house."""

    slug: str
    name: str
    title: str
    arxiv: str
    kind: str
    """One of `KINDS`."""
    home: tuple[str, ...] = ()
    """Modules that hold the method, the paper's own file first."""
    recipes: tuple[str, ...] = ()
    """Names of recipes (`nearfar recipes`), the small one first."""

    @property
    def is_in(self) -> bool:
        return bool(self.home)

    @property
    def verdict(self) -> str:
        """The verdict of the recorded reproduction, such as '3 of 4 decided: 2 hold, 1 reversed'; '' where none is
        recorded. Claims against a constant and premises are counted apart."""
        return tally(self.claims)

    @property
    def claims(self) -> list[dict[str, Any]]:
        """The judged claims of the recorded reproduction; none where none is recorded."""
        record = files("nearfar") / "reproductions" / "results" / f"{self.slug}.json"
        return json.loads(record.read_text("utf-8")).get("claims", []) if record.is_file() else []


PAPERS = (
    Paper(
        "albef",
        "ALBEF",
        "Align before Fuse: Vision and Language Representation Learning with Momentum Distillation",
        "2107.07651",
        "image-text",
        home=(
            "nearfar.methods.image_text.albef",
            "nearfar.methods.parts.momentum_contrast",
            "nearfar.methods.parts.matching",
            "nearfar.methods.image_text.entailment",
            "nearfar.methods.image_text.answering",
            "nearfar.losses.soft_target",
        ),
        recipes=(
            "albef",
            "albef-paper",
            "albef-retrieval-paper",
            "albef-vqa",
            "albef-vqa-paper",
            "albef-entailment-paper",
        ),
    ),
    Paper(
        "align",
        "ALIGN",
        "Scaling Up Visual and Vision-Language Representation Learning With Noisy Text Supervision",
        "2102.05918",
        "image-text",
        home=("nearfar.methods.image_text.align",),
        recipes=("align", "align-paper"),
    ),
    Paper(
        "aro-negclip",
        "ARO and NegCLIP",
        "When and why vision-language models behave like bags-of-words, and what to do about it",
        "2210.01936",
        "image-text",
        home=(
            "nearfar.methods.image_text.negclip",
            "nearfar.evaluation.compositionality.aro",
            "nearfar.data.mining.swaps",
            "nearfar.data.mining.hard_images",
        ),
        recipes=("negclip", "negclip-paper"),
    ),
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
        "cg-vlm",
        "CG-VLM",
        "Contrastive Vision-Language Alignment Makes Efficient Instruction Learner",
        "2311.17945",
        "vision-language models",
    ),
    Paper(
        "close",
        "CLOSE",
        "I Can't Believe There's No Images! Learning Visual Tasks Using only Language Supervision",
        "2211.09778",
        "image-text",
    ),
    Paper(
        "coconut",
        "COCONUT",
        "Continual Contrastive Spoken Language Understanding",
        "2310.02699",
        "speech",
    ),
    Paper(
        "contrastive-nlp-primer",
        "Contrastive NLP primer",
        "A Primer on Contrastive Pretraining in Language Processing: Methods, Lessons Learned and Perspectives",
        "2102.12982",
        "text",
    ),
    Paper(
        "contrastive-search",
        "Contrastive search",
        "Contrastive Search Is What You Need For Neural Text Generation",
        "2210.14140",
        "decoding",
        home=(
            "nearfar.decoding.contrastive.contrastive_search",
            "nearfar.losses.simctg_loss",
            "nearfar.methods.text.simctg",
            "nearfar.evaluation.language.isotropy",
        ),
        recipes=("simctg", "simctg-gpt2"),
    ),
    Paper(
        "cosmo",
        "COSMO",
        "COSMO: COntrastive Streamlined MultimOdal Model with Interleaved Pre-Training",
        "2401.00849",
        "vision-language models",
    ),
    Paper(
        "distill-ood",
        "Distilling VLM for OOD",
        "Distilling Large Vision-Language Model with Out-of-Distribution Generalizability",
        "2307.03135",
        "image-text",
    ),
    Paper(
        "dito",
        "DITO",
        "Detection-Oriented Image-Text Pretraining for Open-Vocabulary Detection",
        "2310.00161",
        "detection",
    ),
    Paper(
        "gist",
        "GIST",
        "GIST: Generating Image-Specific Text for Fine-grained Object Classification",
        "2307.11315",
        "image-text",
    ),
    Paper(
        "hydra",
        "Hydra",
        "Rethinking Positive Pairs in Contrastive Learning",
        "2410.18200",
        "image",
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
        "lexiclip",
        "LexiCLIP",
        "Vision-Free Retrieval: Rethinking Multimodal Search with Textual Scene Descriptions",
        "2509.19203",
        "image-text",
    ),
    Paper(
        "mcl",
        "MCL",
        "Learning the Unlearned: Mitigating Feature Suppression in Contrastive Learning",
        "2402.11816",
        "image",
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
        "ogen",
        "OGEN",
        "Overcoming the Pitfalls of Vision-Language Model Finetuning for OOD Generalization",
        "2401.15914",
        "image-text",
    ),
    Paper(
        "pixpro",
        "PixPro",
        "Propagate Yourself: Exploring Pixel-Level Consistency for Unsupervised Visual Representation Learning",
        "2011.10043",
        "image",
    ),
    Paper(
        "prior",
        "PRIOR",
        "Prioritizing Image-Related Tokens Enhances Vision-Language Pre-Training",
        "2505.08971",
        "vision-language models",
    ),
    Paper(
        "proapo",
        "ProAPO",
        "ProAPO: Progressively Automatic Prompt Optimization for Visual Classification",
        "2502.19844",
        "image-text",
    ),
    Paper(
        "ritual",
        "RITUAL",
        "RITUAL: Random Image Transformations as a Universal Anti-hallucination Lever in LVLMs",
        "2405.17821",
        "decoding",
    ),
    Paper(
        "s-vco",
        "S-VCO",
        "Symmetrical Visual Contrastive Optimization",
        "2502.13928",
        "vision-language models",
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
    Paper(
        "tcl",
        "TCL",
        "Vision-Language Pre-Training with Triple Contrastive Learning",
        "2202.10401",
        "image-text",
        home=("nearfar.methods.image_text.tcl", "nearfar.losses.global_local"),
        recipes=("tcl", "tcl-paper", "tcl-retrieval-paper"),
    ),
    Paper(
        "visually-grounded-language",
        "Visually grounded language",
        "Explainable Semantic Space by Grounding Language to Vision with Cross-Modal Contrastive Learning",
        "2111.07180",
        "text",
    ),
    Paper(
        "vl2v-adip",
        "VL2V-ADiP",
        "Distilling from Vision-Language Models for Improved OOD Generalization in Vision Tasks",
        "2310.08255",
        "image-text",
    ),
    Paper(
        "vladva",
        "VladVA",
        "Discriminative Fine-tuning of LVLMs",
        "2412.04378",
        "vision-language models",
    ),
    Paper(
        "whitenedcse",
        "WhitenedCSE",
        "Whitening-based Contrastive Learning of Sentence Embeddings",
        "2305.17746",
        "text",
    ),
    Paper(
        "x-clip",
        "X-CLIP",
        "Expanding Language-Image Pretrained Models for General Video Recognition",
        "2208.02816",
        "video",
    ),
)


def find(slug: str) -> Paper:
    """The paper of that slug.

    Raises:
        UserError: no such paper; the message lists those there are.

    >>> find("align").arxiv
    '2102.05918'
    """
    return lookup.find("paper", slug, {paper.slug: paper for paper in PAPERS})


def in_order(papers: Iterable[Paper]) -> list[Paper]:
    """Papers that are in come first; each part is in the order of `KINDS`, then by name.

    >>> [paper.slug for paper in in_order([find("x-clip"), find("contrastive-search"), find("align")])]
    ['align', 'contrastive-search', 'x-clip']
    """
    return sorted(papers, key=lambda paper: (not paper.is_in, KINDS.index(paper.kind), paper.name.lower()))


def as_markdown(papers: Iterable[Paper], pages: str = "docs/papers/") -> str:
    """The table of papers that are in, sorted by kind; `pages` is the folder of the papers' pages, as a link needs it."""
    lines = ["| kind | paper | arXiv | where | recipes | verdict of its claims |", "|---|---|---|---|---|---|"]
    for paper in in_order(papers):
        if paper.is_in:
            name = f"[{paper.name}]({pages}{paper.slug}.md)"
            recipes = ", ".join(f"`{recipe}`" for recipe in paper.recipes)
            cells = (paper.kind, name, _arxiv(paper), f"`{paper.home[0]}`", recipes, paper.verdict)
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"All together: {_all_together(papers)}."])


def _all_together(papers: Iterable[Paper]) -> str:
    return tally([claim for paper in papers for claim in paper.claims])


def as_lists(papers: Iterable[Paper]) -> str:
    """The papers that are not in yet, in Markdown: one list, an item for each kind."""
    lines = []
    for kind in KINDS:
        coming = [paper for paper in in_order(papers) if paper.kind == kind and not paper.is_in]
        if coming:
            lines.append(f"- **{kind}**: " + ", ".join(f"{paper.name} ({_arxiv(paper)})" for paper in coming))
    return "\n".join(lines)


def _arxiv(paper: Paper) -> str:
    return f"[{paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})"


def as_json(papers: Iterable[Paper]) -> str:
    """The table for programs."""
    rows = [{**asdict(paper), "in": paper.is_in, "verdict": paper.verdict} for paper in in_order(papers)]
    return json.dumps(rows, indent=1, ensure_ascii=False)


def as_table(papers: Sequence[Paper]) -> Table:
    """The table for the terminal: the papers that are in, then the others, each part by kind."""
    from rich.table import Table

    title = f"{sum(paper.is_in for paper in papers)} of {len(papers)} papers are in"
    table = Table(title=title, caption=f"All claims: {_all_together(papers)}", box=None)
    for column in ("slug", "arXiv", "module, recipes, verdict of its claims"):
        table.add_column(column, no_wrap=True)  # what is typed stays in one piece, also in 80 columns
    part = None
    for paper in in_order(papers):
        if part != (paper.is_in, paper.kind):
            part = (paper.is_in, paper.kind)
            heading = "bold" if paper.is_in else "bold dim"
            table.add_row(paper.kind, "", "" if paper.is_in else "not in yet", style=heading)
        where = [paper.home[0].removeprefix("nearfar."), *paper.recipes] if paper.is_in else []
        where += [f"  {part}" for part in paper.verdict.split("; ") if part]
        style = None if paper.is_in else "dim"
        table.add_row(paper.slug, paper.arxiv, "\n".join(where), style=style)
    return table
