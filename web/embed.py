#!/usr/bin/env python3
"""Packs the dashboard into C: gzip without time stamp, a strong ETag of the content, one exact-match
table. usage: embed.py OUT.c PATH=FILE..."""
import gzip
import hashlib
import sys

TYPES = {
    "html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml",
}


def main():
    out, pairs = sys.argv[1], [a.split("=", 1) for a in sys.argv[2:]]
    rows = []
    with open(out, "w", encoding="ascii") as f:
        f.write('// Made by web/embed.py.\n#include "web/assets.h"\n\n')
        for i, (path, name) in enumerate(pairs):
            with open(name, "rb") as src:
                plain = src.read()
            packed = gzip.compress(plain, 9, mtime=0)
            f.write(f"static const unsigned char a{i}[] = {{\n")
            for k in range(0, len(packed), 24):
                f.write(",".join(map(str, packed[k:k + 24])) + ",\n")
            f.write("};\n")
            tag = hashlib.sha256(plain).hexdigest()[:32]
            rows.append(f'    {{"{path}", "{TYPES[name.rsplit(".", 1)[1]]}", "{tag}", a{i}, sizeof a{i}, {len(plain)}}},\n')
        f.write("\nconst struct api_asset web_assets[] = {\n" + "".join(rows) + "};\n")
        f.write("const size_t web_nassets = sizeof web_assets / sizeof *web_assets;\n")


main()
