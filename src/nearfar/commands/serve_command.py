"""`nearfar serve`."""

from __future__ import annotations

from pathlib import Path


def serve(
    *,
    index: Path = Path("index"),
    model: str | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    auth: str | None = None,
) -> None:
    """Open the search page in a browser's reach: text box, image drop, composed queries, gallery, zero-shot labels.

    The page is for this machine only unless you give another --host; it sends nothing anywhere and loads nothing from
    elsewhere.

    Args:
        index: the index's directory.
        model: the model, where it is not the one that the index names.
        host: the address to listen on; 0.0.0.0 lets other machines in: give a password then.
        port: the port to listen on.
        auth: user:password that the page asks for. The list of processes shows it to other users of this machine; the
            environment variable NEARFAR_AUTH, which is read where --auth is not given, does not.
    """
    from nearfar.search.page.serving import serve as serve_page
    from nearfar.search.page.visitors import password
    from nearfar.search.querying.open_index import open_index

    needed = password(auth)
    opened, encoder = open_index(index, model=model)
    serve_page(opened, encoder, host=host, port=port, password=needed)
