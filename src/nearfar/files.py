"""Files and folders that are either whole or not there: written beside their place, synced, then renamed.

Who may read them, the user's umask says, as for any file: what another library made for its owner alone (safetensors
does) is opened to the others on the way. A disk that cannot take a file is the user's to mend, so it is a `UserError`
that names the file and the remedy; what was there before stays as it was.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nearfar.errors import UserError

REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space, or name a place on another disk",
    errno.EDQUOT: "your quota on this disk is used up: free some space, or name a place on another disk",
    errno.EFBIG: "the file is larger than is allowed: raise the limit (`ulimit -f`), or name a place on another disk",
    errno.EROFS: "the disk is read-only: make it writable, or name a place on another disk",
    errno.EACCES: "this user lacks the permission: change the permissions (`chmod`, `chown`), or name another place",
    errno.EPERM: "this user lacks the permission: change the permissions (`chmod`, `chown`), or name another place",
    errno.EIO: "the disk reports an error: check it, or name a place on another disk",
    errno.ENAMETOOLONG: "the name is too long for this disk: choose a shorter one",
    errno.EMFILE: "this process has too many files open: raise the limit (`ulimit -n`)",
}
"""What went wrong with a file, and what to do about it, by the system's error number."""


UNWRITABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that end or turn a line, control a terminal, or stand for bytes that are not UTF-8."""


def json_fault(error: BaseException) -> str:
    """What is wrong with text that should be JSON, in words, from what its reader raised.

    >>> try: json.loads('{"a": }')
    ... except ValueError as error: json_fault(error)
    'it is no JSON from line 1, character 7 on: mend it there'
    """
    if isinstance(error, json.JSONDecodeError):
        return f"it is no JSON from line {error.lineno}, character {error.colno} on: mend it there"
    if isinstance(error, RecursionError):
        return "its values are nested too deep: write it flatter"
    return "it is not UTF-8 text: save it as UTF-8" if isinstance(error, UnicodeDecodeError) else "it cannot be read"


def is_address(path: object) -> bool:
    """Whether it is an address of the web, and no file or folder here.

    >>> is_address("https://example.org/a.png"), is_address("a.png")
    (True, False)
    """
    return isinstance(path, str) and path.startswith(("http://", "https://"))


LEAST = 1 << 16
"""Bytes without which a disk is full."""


def remedy(error: BaseException | None) -> str | None:
    """What a failed access to a file means and what to do about it; None where it is something else.

    Not only an `OSError` says so: safetensors puts the system's number into a text of its own, and `torch.save` raises
    an error without any on top of the open file's (on top of nothing when it opens the file itself, so open it first).

    >>> remedy(OSError(errno.EROFS, "Read-only file system"))
    'the disk is read-only: make it writable, or name a place on another disk'
    >>> remedy(RuntimeError("I/O error: No space left on device (os error 28)"))
    'the disk is full: free some space, or name a place on another disk'
    """
    while error is not None:
        number = re.search(r"\(os error (\d+)\)", str(error))
        why = REMEDIES.get(int(number[1]) if number else getattr(error, "errno", None) or 0)
        if why is not None or isinstance(error, OSError):
            return why
        error = error.__context__
    return None


BROKEN = {"torchvision": "nms", "torchaudio": "load"}
"""Packages that are often of another build than torch, and a word of the error that they then end in."""

NO_NETWORK = {"ConnectionError", "ConnectError", "ConnectTimeout", "LocalEntryNotFoundError", "OfflineModeIsEnabled"}
NO_SUCH_NAME = {
    *("RepositoryNotFoundError", "DatasetNotFoundError", "HFValidationError", "EntryNotFoundError"),
    *("RevisionNotFoundError", "GatedRepoError"),
}
"""Kinds of errors of the hub's client, by name, so that nothing is imported to tell them."""


def why(error: BaseException, otherwise: str) -> str:
    """What an error of another library means, in words of our own: its text may speak of things that the user never
    named. Raise `from` the error, so that a traceback still shows it.

    Args:
        error: what was raised; what caused it is looked at, too.
        otherwise: what to say where its kind says nothing.

    >>> why(ModuleNotFoundError("No module named 'tiktoken'", name="tiktoken"), "it is damaged")
    "the package 'tiktoken' is missing: install it"
    >>> why(RuntimeError("header too large"), "it is damaged")
    'it is damaged'
    """
    if isinstance(error, UserError):
        return str(error)
    for package, sign in BROKEN.items():
        if package in str(error) and sign in str(error):
            return (
                f"the {package} that is installed does not fit torch and breaks transformers: install the one that "
                f"does, or pip uninstall {package}, which nearfar does not need"
            )
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"the package {error.name.partition('.')[0]!r} is missing: install it"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "it does not fit into the memory: free some, or take a smaller one"
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError, RecursionError)):
        return json_fault(error)
    chain, each = list[BaseException](), error
    while each is not None and each not in chain:
        chain.append(each)
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)  # type: ignore[assignment]
    kinds = {kind.__name__ for each in chain for kind in type(each).__mro__}
    if kinds & NO_NETWORK:
        return "the hub cannot be reached, and nothing of this name is kept here: check the network, or name a folder"
    if kinds & NO_SUCH_NAME:
        return "there is no such folder here, nor such a name on the hub that you may read: check how it is written"
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"{error.filename} is missing"
    return remedy(error) or otherwise


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Explain a disk that refuses what the block writes. `path` is the file or folder as the user knows it: writers of
    other libraries and open files do not say which file it was.

    Raises:
        UserError: the disk is full or read-only, the file is too large, the permission is missing (see `REMEDIES`).

    >>> with writing("a.json"):
    ...     raise OSError(errno.ENAMETOOLONG, "File name too long")
    Traceback (most recent call last):
    nearfar.errors.UserError: a.json cannot be written; the name is too long for this disk: choose a shorter one
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (why := remedy(error)) is None:
            raise
        raise UserError(f"{path} cannot be written; {why}") from error


def one_line(text: str) -> str:
    """A name of a file, or words that hold one, as one line of UTF-8: bytes that are not UTF-8, line ends and other
    control characters are written as escapes. Names on a disk may hold all of these.

    >>> one_line("caf\\udce9\\n.png")
    'caf\\\\udce9\\\\n.png'
    """
    return UNWRITABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def write(path: str | Path, content: str | bytes) -> Path:
    """Write a file in one step; folders are made as needed. Bytes of a name that are not UTF-8 are written as
    backslashes with their numbers, which in JSON reads as the same name again.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(Path(folder) / "new" / "a.txt", "whole").read_text()
    'whole'
    """
    path = place(path)
    with whole(path) as temporary:
        temporary.write_bytes(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)
    return path


def place(path: str | Path) -> Path:
    """The path, once a file can be written there: its folder is made. Called early, it spares a run that could not keep
    its result.

    Raises:
        UserError: it is a folder, or lies below a file.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file to write")
    folder(path.parent)
    return path


def folder(path: str | Path) -> Path:
    """Make a folder, and those above it, unless it is there.

    Raises:
        UserError: a file has its name, or the name of one above it.
    """
    path = Path(path)
    for part in (path, *path.parents):
        if part.exists():
            if not part.is_dir():
                raise UserError(f"{part} is a file, and a folder is to be written there: name another, or remove it")
            break
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def check_writable(path: str | Path) -> None:
    """Raise a `UserError` where nothing could be written below `path`, which need not be there: a file in its way, no
    permission, a disk that is full or read-only. Nothing is made."""
    there = next(part for part in (Path(path), *Path(path).absolute().parents) if part.exists())
    if not there.is_dir():
        raise UserError(f"{there} is a file, and a folder is to be written there: name another, or remove it")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{path} cannot be written; {REMEDIES[errno.EACCES]}")
    if shutil.disk_usage(there).free < LEAST:
        raise UserError(f"{path} cannot be written; {REMEDIES[errno.ENOSPC]}")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to fill that takes its place as `path` when the block ends without an error, and else is removed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with writing(path):
            temporary.unlink(missing_ok=True)  # never written through a link that lies there
            temporary.touch()
            mode = temporary.stat().st_mode
            temporary.unlink()
            yield temporary
            temporary.chmod(stat.S_IMODE(mode))
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


def replace_folder(temporary: Path, final: Path) -> None:
    """Put the finished folder `temporary`, as `mkdir` made it, in the place of `final`, which may exist."""
    with writing(final):
        open_to_others(temporary)
        for path in temporary.rglob("*"):
            sync(path)
        sync(temporary)
        if final.exists():
            # A folder cannot be renamed over a full one: the old one steps aside first, and is never half deleted.
            old = final.with_name(f".{final.name}.{os.getpid()}.old")
            final.rename(old)
            temporary.rename(final)
            shutil.rmtree(old)
        else:
            temporary.rename(final)
        sync(final.parent)


@contextmanager
def filled(final: Path) -> Iterator[Path]:
    """A folder to fill whose files move into `final`, which may hold others, when the block ends without an error: each
    whole or not at all, weights last.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with filled(Path(folder)) as scratch:
    ...         written = (scratch / "a.txt").write_text("whole")
    ...     (Path(folder) / "a.txt").read_text()
    'whole'
    """
    scratch = folder(final) / f".saving.{os.getpid()}.{threading.get_ident()}.tmp"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with writing(final):
            scratch.mkdir()
            yield scratch
            open_to_others(scratch)
            for path in sorted(scratch.iterdir(), key=lambda path: (path.suffix == ".safetensors", path.name)):
                sync(path)
                path.replace(final / path.name)
            sync(final)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def open_to_others(folder: Path) -> None:
    """Let all who may read a folder, as `mkdir` made it under the user's umask, read what lies in it."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(mode if path.is_dir() else mode & 0o666)


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """A folder to fill that takes its place as `final` when the block ends without an error, and else is removed."""
    temporary = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with writing(final):
            temporary.mkdir(parents=True)
            yield temporary
        replace_folder(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def point(link: Path, target: str) -> None:
    """Make `link` a symbolic link to its neighbour `target`, in one step."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    with writing(link):
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        temporary.replace(link)
        sync(link.parent)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk. (Windows opens no folders.)"""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed run left half written in `folder`."""
    for path in folder.glob(".*"):
        if path.name.endswith((".tmp", ".old")):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
