#!/usr/bin/env python3
"""Writes the recipes as C strings, compiled into driftd for `bench`. usage: embed.py FILE.json..."""
import os
import sys


def literal(line):
    return '"' + "".join(chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else f"\\{b:03o}" for b in line) + '"'


print('// Made by configs/embed.py.\n#include "daemon/base/recipe.h"\n')
print("const struct dd_builtin_recipe dd_builtin_recipes[] = {")
for path in sys.argv[1:]:
    with open(path, "rb") as f:
        lines = f.read().splitlines(keepends=True)
    name = os.path.splitext(os.path.basename(path))[0]
    print("    {" + literal(name.encode()) + ",\n     " + "\n     ".join(map(literal, lines)) + "},")
print("    {0},\n};")
