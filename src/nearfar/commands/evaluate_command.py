"""`nearfar evaluate`."""

from __future__ import annotations

import textwrap
from argparse import ArgumentTypeError, Namespace
from collections.abc import Collection, Iterator, Mapping, Sequence
from inspect import cleandoc
from pathlib import Path
from typing import Any, get_args

from nearfar import files, lookup
from nearfar.commands.pictured_texts.write_command import Decoding, writer_under
from nearfar.errors import UserError, at_least
from nearfar.evaluation.protocols import PROTOCOLS, Protocol
from nearfar.signatures import data_columns
from nearfar.signatures.flags import Flags, add_shared


def evaluate(arguments: Sequence[str]) -> None:
    """Measure a model on data by one or more protocols. Every figure comes with its 95 % interval and what chance would
    reach; data of several domains (drawing styles) gets a table of each."""
    args = parser().parse_args(arguments)
    from rich.console import Console

    from nearfar.data.sources.skipped import Skipped
    from nearfar.evaluation import embed, left_out, reranked_retrieval, save_results
    from nearfar.evaluation import evaluate as run
    from nearfar.evaluation.chance import warnings
    from nearfar.evaluation.needs import missing_in_model
    from nearfar.models import load
    from nearfar.models.fusion.reranker import as_fusion

    options = protocol_options(args)
    check_used(options, args.protocols)
    check_decoding(args)
    at_least(1, **{"--limit": args.limit, "--batch-size": args.batch_size})
    if args.json:
        files.place(args.json)
    if args.report:
        files.folder(args.report)
    own = own_data(args, options)
    source = None if own else open_data(args.on or WORLD, args.split, args, otherwise="test")
    if source is not None and args.limit is not None:
        if not hasattr(source, "first"):
            raise UserError(f"--limit is for data that can be counted, and {source.name} is a stream")
        source = source.first(args.limit)
    encoder = load(args.model)
    if args.decoding is not None:
        encoder = writer_under(args.decoding, encoder, args.model, seed=args.seed)
    if args.rerank is not None:
        as_fusion(encoder)
    embeddings, skipped = None, Skipped()
    embedded = args.rerank is not None or args.protocols is None
    if embedded or (args.report and (source is None or not missing_in_model("geometry", encoder, source))):
        reading = {"batch_size": args.batch_size, "captions": first_captions(args), "max_skipped": args.max_skipped}
        embeddings = embed(encoder, source, progress=True, **reading)
    results = run(
        encoder,
        source,
        args.protocols,
        train=open_data(args.train, args.train_split, args, otherwise="train") if args.train else None,
        seed=args.seed,
        batch_size=args.batch_size,
        captions=first_captions(args),
        progress=True,
        max_skipped=args.max_skipped,
        embeddings=embeddings,
        options=options,
        skipped=skipped,
    )
    reranker = None
    if args.rerank is not None and embeddings is not None:
        reranker = match_reranker(encoder, source, embeddings, args)
        results["reranked_retrieval"] = reranked_retrieval(embeddings, reranker, seed=args.seed)
        cost = {"k": reranker.k, "pairs": reranker.pairs, "seconds": reranker.seconds}
        results["reranked_retrieval"].details |= cost
    console = Console(highlight=False)
    console.print(f"{args.model} on {own or repr(source)}", markup=False, soft_wrap=True)
    if opened := getattr(source, "skipped", None):
        console.print(str(opened), markup=False, soft_wrap=True)
    if unread := max((result.details.get("skipped", 0) for result in results.values()), default=0):
        if skipped and args.json:
            listed = skipped.listed_in(args.json.with_suffix(".skipped.txt"))
        else:
            listed = f"{unread:,} skipped that could not be read: `nearfar embed` lists them, and so does --json FILE"
        console.print(listed, markup=False, soft_wrap=True)
    for name, result in results.items():
        for what, count in result.details.get("left_out", {}).items():
            records, are = ("record", "is") if count == 1 else ("records", "are")
            console.print(f"{name}: {count:,} {records} {what} {are} left out", markup=False, soft_wrap=True)
    for warning in warnings(results):
        console.print(warning, markup=False, soft_wrap=True)
    if args.protocols is None and embeddings is not None:
        for name, reason in left_out(encoder, embeddings).items():
            console.print(f"{name} is left out, as {reason}", markup=False, soft_wrap=True)
    for result in results.values():
        for table in result.tables():
            console.print(table)
    if reranker is not None:
        console.print(f"re-ranking: {reranker.cost}", markup=False, soft_wrap=True)
    about = {name: getattr(args, name) for name in ("model", "split", "seed", "captions")}
    about["on"] = own or args.on or WORLD
    about |= {} if args.decoding is None else {"decoding": args.decoding}
    if args.json:
        console.print(f"written to {save_results(results, args.json, **about)}", markup=False, soft_wrap=True)
    if args.report:
        from nearfar.evaluation.report import write_report

        written = write_report(
            args.report,
            encoder=encoder,
            opened=args.model,
            source=source if embeddings is not None else None,
            embeddings=embeddings,
            results=results,
            title=f"{args.model} on {args.on or WORLD}",
        )
        console.print(f"report: {written}", markup=False, soft_wrap=True)


# A flag that takes several words cannot be made from a signature.
evaluate.raw = True  # type: ignore[attr-defined]


def parser() -> Flags:
    """The flags."""
    made = Flags(
        "nearfar evaluate",
        description=cleandoc(evaluate.__doc__ or ""),
        epilog="\n".join(["protocols, with their options:", *map(protocol_help, PROTOCOLS.values())]),
    )
    made.add_argument("model", help="a folder that nearfar or transformers saved, or a model's name")
    made.add_argument(
        "--on",
        metavar="SOURCE",
        help=f"world/emoji, a folder, a table, .tar shards or hub:NAME (default: {WORLD})",
    )
    made.add_argument("--split", help="its split (default: test for the world, none otherwise)")
    made.add_argument(
        "--protocols",
        nargs="+",
        metavar="NAME",
        choices=list(PROTOCOLS),
        help=f"what to measure: {', '.join(PROTOCOLS)} (default: "
        f"{' '.join(name for name, row in PROTOCOLS.items() if row.usual)}, as far as the data allows)",
    )
    made.add_argument("--limit", type=int, metavar="N", help="use the first N records of the data (default: all)")
    made.add_argument(
        "--captions",
        type=number_or_word,
        metavar="N|none|txt|class|name",
        help="use the first N captions of each image (default: all); none reads pictures alone; of a folder txt, class "
        "or name say where captions come from",
    )
    made.add_argument(
        "--options",
        nargs="+",
        default=[],
        metavar="PROTOCOL.OPTION=VALUE",
        help="settings of single protocols, such as knn.k=5; all are listed below",
    )
    for protocol in PROTOCOLS.values():
        own = {option.name: option for option in protocol.options}
        for flag, name in protocol.flags.items():
            made.add_argument(
                flag,
                dest=f"{protocol.name}.{name}",
                nargs="*" if own[name].is_list else None,
                choices=own[name].choices,
                metavar=None if own[name].choices else "VALUE",
                help=f"{protocol.name}: {own[name].help_text}".replace("%", "%%"),
            )
    made.add_argument(
        "--train",
        metavar="SOURCE",
        help="data to fit probes and text-only baselines on, and to take candidate answers from (default: half of the "
        "data)",
    )
    made.add_argument("--train-split", help="the split of --train")
    add_shared(made, data_columns.Columns, without=["captions"])
    made.add_argument(
        "--rerank",
        type=int,
        metavar="K",
        help="also retrieval where a fusion model (albef, tcl) re-ranks the first K of each query, with its cost",
    )
    made.add_argument(
        "--decoding",
        choices=get_args(Decoding),
        help=f"how a vision-language model writes, for {' and '.join(WRITTEN)}, as of `nearfar write` (default: plain)",
    )
    made.add_argument("--batch-size", type=int, default=64, help="for embedding (default: %(default)s)")
    made.add_argument(
        "--max-skipped",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="share of unusable records above which this stops (default: %(default)s)",
    )
    made.add_argument("--seed", type=int, default=0, help="of splits and intervals (default: %(default)s)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON")
    made.add_argument("--report", type=Path, metavar="FOLDER", help="write report.html there")
    return made


WORLD = "world/emoji"
"""What is measured on where no data are named."""


WRITTEN = ("yes_no", "chair")
"""Protocols that read what a model writes, and nothing else of it."""


def own_data(args: Namespace, options: Mapping[str, Mapping[str, Any]]) -> str:
    """The data that all protocols bring by their own settings (`--sts-sets`), in words; "" where one of them, or a
    flag, needs `--on`."""
    if not args.protocols or args.on or args.report or args.rerank is not None:
        return ""
    named = [options.get(name, {}).get(PROTOCOLS[name].own_data or "") for name in args.protocols]
    lists = [each if isinstance(each, list) else [each] for each in named]
    return "" if None in named else ", ".join(str(each) for words in lists for each in words)


def open_data(spec: str, split: str | None, args: Namespace, *, otherwise: str) -> Any:
    """The source behind a word of the command line. Of the embedded world, where no split is named, the split
    `otherwise` is meant: models are measured on what was held out of training."""
    from nearfar.console import with_remark
    from nearfar.data import open_source

    options = {"max_skipped": args.max_skipped, **data_columns.of(args)}
    if first_captions(args) is not None:
        del options["captions"]
    return with_remark(open_source(spec, split=split, world_split=otherwise, **options))


def number_or_word(text: str) -> int | str:
    """How many captions of each image count, or where they come from."""
    words = data_columns.CAPTIONS
    if text not in words and not text.isdecimal():
        raise ArgumentTypeError(f"must be a whole number or one of {', '.join(words)}, not {text!r}")
    return text if text in words else int(text)


def first_captions(args: Namespace) -> int | None:
    """How many captions of each image count; None for all."""
    return args.captions if isinstance(args.captions, int) else None


def match_reranker(encoder: Any, source: Any, embeddings: Any, args: Namespace) -> Any:
    """The re-ranker over the pictures and captions that were embedded."""
    from nearfar.data.pictures.images import load_image, reading_size
    from nearfar.models import MatchScorer, Reranker

    if not hasattr(source, "__getitem__"):
        raise UserError(f"--rerank reads the data twice, and {source.name} is a stream: leave out streaming")
    pictures = (load_image(source[row]["image"], near=reading_size(encoder)) for row in embeddings.row.tolist())
    scorer = MatchScorer.of(encoder, pictures, embeddings.captions, batch_size=args.batch_size)
    return Reranker(scorer, k=args.rerank)


def protocol_options(args: Namespace) -> dict[str, dict[str, Any]]:
    """Each protocol's own settings: those that have flags of their own, then those of `--options`."""
    options: dict[str, dict[str, Any]] = {}
    for protocol in PROTOCOLS.values():
        for flag, name in protocol.flags.items():
            option = next(option for option in protocol.options if option.name == name)
            if (text := getattr(args, f"{protocol.name}.{name}")) is not None:
                words = text if option.is_list else [text]
                values = words if option.is_words else [read(word, flag) for word in words]
                value = values if option.is_list else values[0]
                options.setdefault(protocol.name, {})[name] = value
    for word in args.options:
        where, key, value = setting(word)
        options.setdefault(where, {})[key] = value
    return options


def check_used(options: Collection[str], protocols: Sequence[str] | None) -> None:
    """Raise a `UserError` for settings of a protocol that is not among those to measure: they would do nothing."""
    from nearfar.evaluation.run_protocols import USUAL

    measured = USUAL if protocols is None else protocols
    if unused := [name for name in options if name not in measured]:
        raise UserError(
            f"{unused[0]} has settings here and is not measured: add it, --protocols {' '.join([*measured, unused[0]])}"
        )


def check_decoding(args: Namespace) -> None:
    """Raise a `UserError` where `--decoding` would do nothing."""
    if args.decoding is not None and not (args.protocols and set(args.protocols) <= set(WRITTEN)):
        raise UserError(f"--decoding is of what a model writes: name --protocols {' '.join(WRITTEN)}, or one of them")


def setting(word: str) -> tuple[str, str, Any]:
    """Protocol, option and value of a `PROTOCOL.OPTION=VALUE`, the value read as YAML."""
    key, equals, text = word.partition("=")
    name, dot, option = key.partition(".")
    if not (equals and dot):
        raise UserError(f"--options: {word!r} is no PROTOCOL.OPTION=VALUE, such as knn.k=5")
    lookup.find("protocol", name, PROTOCOLS).check_options([option], where="--options: ")
    return name, option, read(text, "--options")


def read(text: str, flag: str) -> Any:
    """A value written as YAML: a number, a word, [a, list]."""
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"{flag}: {text!r} is no value: put it in quotes") from None


def protocol_help(protocol: Protocol) -> str:
    """The help on a protocol: what it measures, and its options."""
    return "\n".join([f"\n  {protocol.name}: {protocol.about}", *_options(protocol)])


def _options(protocol: Protocol) -> Iterator[str]:
    for option in protocol.options:
        yield textwrap.fill(
            f"{option.name}: {option.help_text}", 100, initial_indent="    ", subsequent_indent="      "
        )
