#!/usr/bin/env python3
"""Writes a text file as a C string. usage: text.py FILE"""
import sys


def literal(line):
    return '"' + "".join(chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else f"\\{b:03o}" for b in line) + '"'


with open(sys.argv[1], "rb") as f:
    lines = f.read().splitlines(keepends=True)
print('// Made by engine/export/text.py.\n#include "engine/export/export_priv.h"\n')
print("const char dr_export_torch[] =\n    " + "\n    ".join(map(literal, lines)) + ";")
