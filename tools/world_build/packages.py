"""The packages that the world is made of: pinned, fetched by the registry's own client, checked, unpacked."""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """One pinned package. `kind` is the client that fetches it; `sha256` is that of the archive it brings."""

    key: str
    kind: str
    name: str
    version: str
    sha256: str
    licence: str
    attribution: str

    @property
    def spec(self) -> str:
        return f"{self.name}{'@' if self.kind == 'npm' else '='}{self.version}"


PACKAGES = [
    Package(
        "noto",
        "npm",
        "emoji-datasource-google",
        "16.0.0",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
        "Apache-2.0",
        "Noto Emoji, copyright Google LLC",
    ),
    Package(
        "twemoji",
        "npm",
        "emoji-datasource-twitter",
        "16.0.0",
        "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
        "CC-BY-4.0",
        "Twemoji, copyright Twitter, Inc. and other contributors",
    ),
    Package(
        "openmoji",
        "npm",
        "openmoji",
        "17.0.0",
        "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68",
        "CC-BY-SA-4.0",
        "OpenMoji, the open-source emoji and icon project, openmoji.org",
    ),
    Package(
        "fluent-3d",
        "npm",
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        "MIT",
        "Fluent Emoji, copyright Microsoft Corporation",
    ),
    Package(
        "names",
        "npm",
        "emojibase-data",
        "17.0.0",
        "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
        "MIT",
        "Emojibase, copyright Miles Johnson",
    ),
    Package(
        "annotations",
        "npm",
        "cldr-annotations-full",
        "48.2.0",
        "28576e51225deb51e3ddd734b0f824a0079682cb5d8c27faa9f68149317a14d1",
        "Unicode-3.0",
        "Unicode CLDR, copyright Unicode, Inc.",
    ),
    Package(
        "clipart-png",
        "debian",
        "openclipart-png",
        "1:0.18+dfsg-19",
        "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
        "public domain",
        "Open Clip Art Library",
    ),
    Package(
        "clipart-svg",
        "debian",
        "openclipart-svg",
        "1:0.18+dfsg-19",
        "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
        "public domain",
        "Open Clip Art Library",
    ),
]


def fetch(folder: Path) -> dict[str, Path]:
    """Every package unpacked under `folder`: its key -> where it lies. What is already there is used again, once its
    checksum has been checked."""
    archives, unpacked = folder / "archives", folder / "unpacked"
    archives.mkdir(parents=True, exist_ok=True)
    return {package.key: _unpack(_archive(package, archives), unpacked / package.key) for package in PACKAGES}


def _archive(package: Package, folder: Path) -> Path:
    known = {_sha256(path): path for path in folder.iterdir()}
    if package.sha256 not in known:
        client = ["npm", "pack", "--silent"] if package.kind == "npm" else ["apt-get", "download", "-q"]
        subprocess.run([*client, package.spec], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        known = {_sha256(path): path for path in folder.iterdir()}
    if package.sha256 not in known:
        raise SystemExit(f"{package.spec}: what was fetched has not the sha256 {package.sha256}; nothing was built.")
    return known[package.sha256]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpack(archive: Path, folder: Path) -> Path:
    if not folder.exists():
        part = folder.with_suffix(".part")
        part.mkdir(parents=True)
        if archive.suffix == ".deb":
            subprocess.run(["dpkg-deb", "-x", archive, part], check=True)
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(part, filter="data")
        part.rename(folder)
    return folder if archive.suffix == ".deb" else folder / "package"
