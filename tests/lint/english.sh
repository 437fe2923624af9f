#!/bin/bash
# Comments, messages and documents are plain English: "per class", not "a class"; "returns", "holds",
# "fails with", not "tells of", "says so". Looks for phrases of the project's first months and for
# the words that docs and page had in their places.
# usage: english.sh SOURCE_ROOT
set -euo pipefail
cd "$1"
counted='bytes|images|rows|lines|calls|files|steps|values|entries|requests|pixels|launches|samples?'
counted+='|vectors?|points|words|tokens|times|threads|floats|indices|draws?|blocks?|checkpoints?|jobs?'
counted+='|buckets|columns|figures?|numbers?|seconds|reals|warps|queries|keys|generated|digits|letters'
each='class|scale|image|row|step|line|request|sample|group|thread|block|file|job|second|token|head|layer'
each+='|time|batch|feature|temperature|draw|worker|connection|minute|run|call|column|metric|name|chunk'
each+='|channel|pixel|tile|warp|lane|kernel|test|target|generator'
phrases='tells? of|says so|is told|its last word|in company|wait so long for|believed in|will not say'
phrases+='|(drawn|made) by code|not (selected|picked)[:.*]|and your changes to it|(headers|bodies) that come'
phrases+='|divided by that of the same number|even before train|event stream is interrupted|needs an access token'
phrases+='|double-click to show|sticky error, once|it is done on return|step that this tells|give --insecure'
phrases+='|held up does not stand for|who waits is told|insecure` is (said|given)'
phrases+="|(sentence|key|line|row|file|op|register|table|product) a ($each)"
hits=$(git grep -nIE "\b($phrases|($counted) an? ($each))\b" -- '*.c' '*.h' '*.cu' '*.cc' '*.js' \
    '*.mjs' '*.css' '*.html' '*.md' '*.def' '*.in' '*.sh' '*.py' '*.1' '*.build' '*.json' '*.txt' \
    ':!tests/lint/english.sh' ':!**/package-lock.json' || true)
if [ -n "$hits" ]; then
    printf 'say it plainly (per class, returns, holds, fails with):\n%s\n' "$hits"
    exit 1
fi
