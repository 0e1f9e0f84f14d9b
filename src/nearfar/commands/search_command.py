"""`nearfar search`."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from nearfar import files
from nearfar.errors import UserError
from nearfar.signatures.flags import Flags

if TYPE_CHECKING:
    from rich.table import Table

    from nearfar.search import Results


def search(arguments: Sequence[str]) -> None:
    """Search an index by text, by image or sound, or by both: q = text + image + audio + weight * plus - weight *
    minus."""
    args = parser().parse_args(arguments)
    if args.html:
        files.place(args.html)
    if args.where is not None:
        from nearfar.search.querying.where import parse

        parse(args.where)  # what cannot be read is answered before a model is loaded
    if args.queries is not None or args.out is not None or args.column is not None:
        search_file(args)
    else:
        search_once(args)


def search_once(args: Namespace) -> None:
    """One query: its hits for the terminal, as JSON, as a gallery."""
    for words in (args.text, *args.plus, *args.minus):
        check_words(words or "")
    from rich.console import Console

    from nearfar.search import query
    from nearfar.search.querying.open_index import open_index

    index, encoder = open_index(args.index, model=args.model, itself=args.rerank is not None)
    rerank = None
    if args.rerank is not None:
        from nearfar.search import match_reranker

        rerank = match_reranker(encoder)
    results = query(
        index,
        encoder,
        text=args.text,
        image=args.image,
        audio=args.audio,
        plus=args.plus,
        minus=args.minus,
        weight=args.weight,
        top=args.top,
        where=args.where,
        rerank=rerank,
        depth=args.top if args.rerank is None else args.rerank,
    )
    if args.html:
        from nearfar.search.page.hit_gallery import write_gallery

        write_gallery(results, args.html)
    if args.json:
        print(json.dumps([hit.as_dict() for hit in results], ensure_ascii=False, indent=1))
        return
    console = Console()
    console.print(table(results))
    console.print(f"{index.counted}; {results.cost}", highlight=False, markup=False, soft_wrap=True)
    if args.html:
        console.print(f"gallery: {args.html}", highlight=False, markup=False)


def check_words(text: str) -> None:
    """Raise a `UserError` for the name of a file: it would be searched as words, which nobody means."""
    if not Path(text).suffix or not Path(text).is_file():
        return
    from nearfar.data.pictures.images import EXTENSIONS
    from nearfar.data.sound.sound_folder import ENDINGS

    remedy = f"--queries {quote(text)} --out hits.jsonl searches what it holds"
    if text.lower().endswith(EXTENSIONS):
        remedy = f"--image {quote(text)} searches by the picture"
    if text.lower().endswith(ENDINGS):
        remedy = f"--audio {quote(text)} searches by the sound"
    raise UserError(f"{text!r} is a file here, and would be searched as words: {remedy}")


def search_file(args: Namespace) -> None:
    """Many queries of a file, their hits to a file."""
    if args.queries is None:
        raise UserError(f"{'--out' if args.out else '--column'} belongs to --queries FILE: name the file of queries")
    if args.out is None:
        raise UserError("--queries needs a file for the hits: --out hits.jsonl, or hits.parquet")
    alone = ("text", "image", "audio", "plus", "minus", "rerank", "html", "json")
    if beside := [name for name in alone if getattr(args, name)]:
        raise UserError(f"--queries takes its queries from the file alone: leave out {', '.join(beside)}")

    from rich.console import Console

    from nearfar.console import track
    from nearfar.data.sources.skipped import Skipped
    from nearfar.search import search_many
    from nearfar.search.querying.hit_files import check_ending, write_hits
    from nearfar.search.querying.open_index import open_index
    from nearfar.search.querying.query_files import QueryFile

    check_ending(args.out)
    queries, skipped = QueryFile(args.queries, args.column), Skipped()
    index, encoder = open_index(args.index, model=args.model)
    read = track(queries, "searching", True)
    results = search_many(index, encoder, read, top=args.top, where=args.where, skipped=skipped)
    count = write_hits(results, args.out, index=index)
    console = Console(soft_wrap=True, highlight=False)
    if listed := Skipped.merged([queries.skipped, skipped]).listed_in(args.out.with_suffix(".skipped.txt")):
        console.print(listed, markup=False)
    console.print(f"{args.out}: hits of {count:,} queries among {index.counted}", markup=False)


# Its one positional argument may be left out, which flags made from a signature cannot say.
search.raw = True  # type: ignore[attr-defined]


def parser() -> Flags:
    """The flags."""
    made = Flags("nearfar search", description=search.__doc__ or "")
    made.add_argument("text", nargs="?", help="what to look for")
    made.add_argument("--index", type=Path, default=Path("index"), help="the index's directory (default: %(default)s)")
    made.add_argument("--image", help="a picture to start from")
    made.add_argument("--audio", help="a sound to start from")
    made.add_argument("--plus", action="append", default=[], metavar="TEXT", help="add a text; may be repeated")
    made.add_argument("--minus", action="append", default=[], metavar="TEXT", help="take a text away; may be repeated")
    made.add_argument("--weight", type=float, default=1.0, help="how much each plus and minus counts (%(default)s)")
    made.add_argument("--top", type=int, default=10, help="how many hits (%(default)s)")
    made.add_argument(
        "--where",
        metavar="FILTER",
        help='only among items for which this holds: \'price < 20 and colour in ["red", "blue"]\' (docs/search.md)',
    )
    made.add_argument(
        "--rerank",
        type=int,
        metavar="K",
        help="let a fusion model (albef, tcl) re-rank the first K by its matching score",
    )
    made.add_argument(
        "--queries",
        type=Path,
        metavar="FILE",
        help="many queries at once: .txt, a text a line; a table, a query a row; a folder, a query a picture or sound",
    )
    made.add_argument(
        "--column", metavar="NAME", help="the column of the queries, texts, pictures or sounds, in that table"
    )
    made.add_argument("--out", type=Path, metavar="FILE", help="where their hits go: .jsonl or .parquet")
    made.add_argument("--model", help="the model, where it is not the one that the index names")
    made.add_argument("--json", action="store_true", help="print the hits as JSON")
    made.add_argument("--html", type=Path, metavar="FILE", help="write a gallery, one file that holds its pictures")
    return made


def table(results: Results) -> Table:
    """The hits for the terminal, with the columns that the index keeps."""
    from rich.table import Table
    from rich.text import Text

    from nearfar.search.index.kept import short

    kept = list(dict.fromkeys(name for hit in results for name in hit.kept))
    result_table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("#", "score", "id", "caption", *kept, "where"):
        right = name in ("#", "score", "id") or all(is_number(hit.kept.get(name)) for hit in results)
        result_table.add_column(Text(name), justify="right" if right else "left", overflow="fold")
    for hit in results:
        caption = Text.assemble(hit.caption, (f"  {hit.domain_name}" if hit.domain_name else "", "dim"))
        number = "" if hit.id is None else str(hit.id)
        values = [Text(short(hit.kept.get(name))) for name in kept]
        result_table.add_row(str(hit.rank), f"{hit.score:.3f}", number, caption, *values, Text(hit.place, style="dim"))
    return result_table


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
