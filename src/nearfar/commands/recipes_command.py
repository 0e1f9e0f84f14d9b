"""`nearfar recipes`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from nearfar.signatures.flags import Flags


def recipes(arguments: Sequence[str]) -> None:
    """List the recipes that come with nearfar, or copy one out to edit: nearfar recipes copy NAME [DEST]."""
    args = parser().parse_args(arguments)
    if args.action == "copy":
        copy(args.name, args.dest)
        return
    from nearfar.recipes import comment, launch_configurations, shipped

    known = shipped() | launch_configurations()
    width = max(map(len, known), default=0)
    print("\n".join(f"{name:<{width}}  {comment(path)}" for name, path in known.items()))
    print("\nnearfar train NAME runs one; nearfar recipes copy NAME copies it here to edit.")


def copy(name: str, dest: Path) -> None:
    """Copy a shipped recipe, or a configuration of `accelerate launch`, to a folder or file that is not there yet."""
    from nearfar import files, lookup
    from nearfar.errors import UserError
    from nearfar.recipes import launch_configurations, shipped

    known = shipped() | launch_configurations()
    source = lookup.find("recipe", name, known)
    target = dest / source.name if dest.is_dir() else dest
    if target.exists():
        raise UserError(f"{target} exists already: remove it, or name another file.")
    files.write(target, source.read_bytes())
    word = quote(str(target))
    launch = f"accelerate launch --config_file {word} -m nearfar train RECIPE"
    print(f"{target}: edit it, then {launch if name.startswith('accelerate/') else f'nearfar train {word}'}")


# An action with words of its own cannot be made from a signature.
recipes.raw = True  # type: ignore[attr-defined]


def parser() -> Flags:
    """The flags."""
    flags = Flags("nearfar recipes", description=recipes.__doc__ or "")
    actions = flags.add_subparsers(dest="action")
    actions.add_parser("list", help="list them (the default)")
    copying = actions.add_parser("copy", help="copy one out to edit")
    copying.add_argument("name", help="the recipe")
    copying.add_argument("dest", nargs="?", type=Path, default=Path(), help="a folder or file (default: here)")
    return flags
