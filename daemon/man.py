"""Puts the options of options.def in place of @OPTIONS@ in the man page. Arguments: driftd.1.in options.def."""
import re
import sys


def roff(text):
    return text.replace("\\", "\\e").replace("-", "\\-")


WORDS = {"listen": "ADDRESS", "autostart": "RECIPE", "resume": "auto|ask", "precision": "fp32|bf16", "import-root": "DIR",
         "tls-cert": "FILE", "tls-key": "FILE", "log-format": "text|json"}  # as in options.c

page, table = (open(path, encoding="utf-8").read() for path in sys.argv[1:3])
out = []
for kind, name, rest in re.findall(r'^OPT_(\w+)\("([a-z-]+)", (.*)\)$', table, re.M):
    doc = re.search(r'"((?:[^"\\]|\\.)*)"$', rest)[1]
    default = re.match(r'\w+, ("(?P<s>[^"]*)"|(?P<n>\d+))', rest)
    word = {"INT": "N", "BOOL": ""}.get(kind, WORDS.get(name, name.rsplit("-", 1)[-1].upper()))
    font = "B" if "|" in word else "I"  # words that are typed as they stand
    value = f" \\f{font}{word}\\fR" if word else ""
    known = default and kind in ("STR", "INT") and (default["s"] or default["n"])
    more = f" (default {known})" if known else ""
    if kind == "LIST":
        more = "; may be repeated"
    out += [".TP", f"\\fB\\-\\-{roff(name)}\\fR{value}", roff(doc[0].upper() + doc[1:] + more + ".")]
assert len(out) // 3 == len(re.findall(r"^OPT_", table, re.M)), "an option was not understood"
print(page.replace("@OPTIONS@", "\n".join(out)), end="")
