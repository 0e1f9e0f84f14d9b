"""A WordNet of ten nouns, in the form of its files: two paths to the root, an instance, a synset of two words."""

from __future__ import annotations

from pathlib import Path

LICENCE = "  1 The licence stands here, in lines that begin with spaces.\n"
# offset: words, [(pointer, offset)]
SYNSETS = {
    100: (["entity"], []),
    200: (["organism"], [("@", 100)]),
    300: (["animal", "beast"], [("@", 200)]),
    400: (["carnivore"], [("@", 300)]),
    500: (["dog"], [("@", 410), ("@", 310), ("~", 510)]),
    410: (["canine"], [("@", 400)]),
    310: (["domestic_animal"], [("@", 300)]),
    600: (["cat"], [("@", 420)]),
    420: (["feline"], [("@", 400)]),
    700: (["artifact"], [("@", 100)]),
    710: (["vehicle"], [("@", 700)]),
    720: (["car"], [("@", 710)]),
    510: (["Rex"], [("@i", 500)]),
    730: (["box"], [("@", 700)]),
    520: ([f"pup_{i}" for i in range(10)], [("@", 500)]),  # more words than a decimal digit counts
    740: (["cat"], [("@", 710)]),  # its second sense
}


def write(folder: Path) -> Path:
    """`index.noun` and `data.noun` in a folder; the folder."""
    lines, senses = [], {}
    for offset, (words, pointers) in SYNSETS.items():
        named = " ".join(f"{word} 0" for word in words)
        links = " ".join(f"{symbol} {to:08d} n 0000" for symbol, to in pointers)
        lines.append(f"{offset:08d} 03 n {len(words):02x} {named} {len(pointers):03d} {links} | a gloss; of words\n")
        for word in words:
            senses.setdefault(word.lower(), []).append(offset)
    entries = [
        f"{word} n {len(of)} 2 @ ~ {len(of)} 0 {' '.join(f'{offset:08d}' for offset in of)}  \n"
        for word, of in senses.items()
    ]
    (folder / "data.noun").write_text(LICENCE + "".join(lines), "latin-1")
    (folder / "index.noun").write_text(LICENCE + "".join(entries), "latin-1")
    return folder
