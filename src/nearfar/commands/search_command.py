"""`nearfar search`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nearfar import files
from nearfar.signatures.flags import Flags

if TYPE_CHECKING:
    from rich.table import Table

    from nearfar.search import Results


def search(arguments: Sequence[str]) -> None:
    """Search an index by text, by image, or by both: q = text + image + weight * plus - weight * minus."""
    args = parser().parse_args(arguments)
    if args.html:
        files.place(args.html)
    from rich.console import Console

    from nearfar.search import query
    from nearfar.search.page.hit_gallery import write_gallery
    from nearfar.search.querying.open_index import open_index

    index, encoder = open_index(args.index, model=args.model)
    rerank = None
    if args.rerank is not None:
        from nearfar.search import match_reranker

        rerank = match_reranker(encoder)
    results = query(
        index,
        encoder,
        text=args.text,
        image=args.image,
        plus=args.plus,
        minus=args.minus,
        weight=args.weight,
        top=args.top,
        rerank=rerank,
        depth=args.top if args.rerank is None else args.rerank,
    )
    if args.html:
        write_gallery(results, args.html)
    if args.json:
        print(json.dumps([hit.as_dict() for hit in results], ensure_ascii=False, indent=1))
        return
    console = Console()
    console.print(table(results))
    console.print(f"{index.counted}; {results.cost}", highlight=False, markup=False, soft_wrap=True)
    if args.html:
        console.print(f"gallery: {args.html}", highlight=False, markup=False)


# Its one positional argument may be left out, which flags made from a signature cannot say.
search.raw = True  # type: ignore[attr-defined]


def parser() -> Flags:
    """The flags."""
    made = Flags("nearfar search", description=search.__doc__ or "")
    made.add_argument("text", nargs="?", help="what to look for")
    made.add_argument("--index", type=Path, default=Path("index"), help="the index's directory (default: %(default)s)")
    made.add_argument("--image", type=Path, help="a picture to start from")
    made.add_argument("--plus", action="append", default=[], metavar="TEXT", help="add a text; may be repeated")
    made.add_argument("--minus", action="append", default=[], metavar="TEXT", help="take a text away; may be repeated")
    made.add_argument("--weight", type=float, default=1.0, help="how much each plus and minus counts (%(default)s)")
    made.add_argument("--top", type=int, default=10, help="how many hits (%(default)s)")
    made.add_argument(
        "--rerank",
        type=int,
        metavar="K",
        help="let a fusion model (albef, tcl) re-rank the first K by its matching score",
    )
    made.add_argument("--model", help="the model, where it is not the one that the index names")
    made.add_argument("--json", action="store_true", help="print the hits as JSON")
    made.add_argument("--html", type=Path, metavar="FILE", help="write a gallery, one file that holds its pictures")
    return made


def table(results: Results) -> Table:
    """The hits for the terminal."""
    from rich.table import Table
    from rich.text import Text

    result_table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (("#", "right"), ("score", "right"), ("caption", "left"), ("where", "left")):
        result_table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for hit in results:
        where = Text(hit.path or hit.key, style="dim")
        caption = Text.assemble(hit.caption, (f"  {hit.domain_name}" if hit.domain_name else "", "dim"))
        result_table.add_row(str(hit.rank), f"{hit.score:.3f}", caption, where)
    return result_table
