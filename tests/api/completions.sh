#!/bin/bash
# The man page of driftctl describes every command and option; each of its shell completions parses in
# its shell and offers what it should. A shell that is not installed is skipped; bash is always there.
# Arguments: driftctl, driftctl.1, the script run.
set -euo pipefail
page=$(sed 's/\\-/-/g; s/\\f[BIR]//g' "$2")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
ln -s "$(realpath "$1")" "$dir/driftctl"
PATH=$dir:$PATH
export DRIFTD_URL=http://127.0.0.1:1 # nobody there: names of jobs and recipes are left out

# What a server with two jobs, two checkpoints and a recipe would answer, and another recipe whose name
# is a command.
mkdir "$dir/stub"
cat >"$dir/stub/driftctl" <<'STUB'
#!/bin/sh
case "$*" in
'jobs --json --timeout 2') printf ' "jobs": [\n {\n  "id": "7",\n  "name": "a"\n },\n {\n  "id": "8",\n  "name": "b"\n }\n' ;;
'jobs --url http://gpu:8080 --json --timeout 2' | 'jobs -u unix:/gpu --token-file '*'/my token --json --timeout 2') printf '  "id": "9",\n' ;;
'checkpoints --json --timeout 2') printf '  "id": "41",\n  "job": "7",\n  "id": "42",\n' ;;
'evals --json --timeout 2') printf '  "id": "51",\n' ;;
'grids --json --timeout 2') printf '  "id": "61",\n' ;;
'configs --json --timeout 2') printf '  "name": "%s",\n' digits "my digits" 'x$(touch pwned)' ;;
'data list --json --timeout 2') printf '  "name": "birds",\n' ;;
'ablate list --json --timeout 2') printf '  "id": "71",\n' ;;
'help') printf '  sample                  generate images\n' ;;
'configs --keys --timeout 2' | 'configs --keys --ca-file x --timeout 2') printf 'optim.lr\ntrain.steps\n' ;;
esac
STUB
chmod +x "$dir/stub/driftctl"

# offered WORD...: what bash would offer for a command line of these words.
offered() {
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
    _driftctl
    printf '%s\n' "${COMPREPLY[@]}"
}
# has NAME WORD...: offered, or the test fails.
has() {
    grep -qx -e "$1" <<<"$(offered "${@:2}")" || { echo "no $1 for: ${*:2}"; exit 1; }
}
driftctl completion bash >"$dir/c.bash"
# shellcheck disable=SC1091
. "$dir/c.bash"
while read -r command; do
    has "$command" driftctl "$command"
    grep -qE "(^|[^-[:alnum:]])$command([^-[:alnum:]]|\$)" <<<"$page" || { echo "driftctl.1: no $command"; exit 1; }
    while read -r option; do
        grep -qF -e "$option" <<<"$page" || { echo "driftctl.1: no $option of $command"; exit 1; }
    done < <(driftctl help "$command" | sed -n 's/^ .*\(--[a-z-]*\).*/\1/p')
done < <(driftctl help | sed -n 's/^  \([a-z][a-z]*\) .*/\1/p')
has --guidance driftctl sample --gu
has fashion-mnist driftctl fetch fa
has backup driftctl db ""
has --json driftctl jobs --j
PATH=$dir/stub:$PATH
for command in job follow stop pause resume remove checkpoint metrics edit; do
    has 7 driftctl $command ""
    has 8 driftctl $command ""
done
for command in serve activate export; do has 42 driftctl $command 4; done
for word in show edit remove; do has $word driftctl checkpoints ""; done
has 42 driftctl checkpoints edit ""
has --untag driftctl checkpoints edit 42 --un
has remove driftctl evals ""
has 51 driftctl evals show ""
has 61 driftctl grids ""
has --priority driftctl edit 7 --p
has auto driftctl serve ""
has live driftctl serve l
has digits driftctl train ""
has 'my\\ digits' driftctl train my
(cd "$dir" && has 'x\\$\\(touch\\ pwned\\)' driftctl train x && [ ! -e pwned ])
has birds driftctl data show ""
has 71 driftctl ablate show ""
has sample driftctl help sa
has optim.lr= driftctl train digits --set opt
has 41 driftctl sample --checkpoint ""
has 42 driftctl eval --inception ""
if offered driftctl sample --checkpoint "" | grep -qx 7; then echo "a job is no checkpoint"; exit 1; fi
# Names are those of the server that the line names, as readline cuts it; none while it is being named.
for line in 'remove --url http : //gpu : 8080' '--url http : //gpu : 8080 remove'; do
    # shellcheck disable=SC2086
    has 9 driftctl $line ""
done
# shellcheck disable=SC2088
has 9 driftctl -u unix : /gpu --token-file "~/'my token'" stop ""
has optim.lr= driftctl train --ca-file x --set opt
has remove driftctl --url http : //gpu : 8080 rem
for last in --url "--url = http : //gpu :" "--set optim.lr ="; do
    # shellcheck disable=SC2086
    if offered driftctl remove $last "" | grep -qx '[79]'; then echo "names after $last"; exit 1; fi
done
PATH=${PATH#*:}
[ "$(driftctl --version)" = "driftctl $(driftctl -V | cut -d' ' -f2)" ]

# What is typed stands in the page as it is typed: a bare hyphen is set as another character.
if sed -n '/^\.SH EXAMPLES/,/^\.SH SEE/p; /^\.[BI]/p' "$2" | grep -nE '(^|[^\\])-'; then
    echo "driftctl.1: hyphens that are not \\-"
    exit 1
fi

# The line of ./run that puts driftctl on the PATH does.
hints=$(sed -n '/^usage_hints()/,/^}/p' "$3")
line=$(url=http://127.0.0.1:1 log=/dev/null ctl_dir=$dir bash -c "$hints; usage_hints" | sed -n 's/^ *\(export PATH=.*\)/\1/p')
found=$(env -i PATH=/usr/bin:/bin bash -c "$line; command -v driftctl; echo \$DRIFTD_URL")
[ "$found" = "$dir/driftctl
http://127.0.0.1:1" ] || { echo "./run: $line finds $found"; exit 1; }
if [ -n "$(offered driftctl stop --gu)" ]; then echo "stop has no --guidance"; exit 1; fi

driftctl completion zsh >"$dir/_driftctl"
driftctl completion fish >"$dir/c.fish"
grep -q '^#compdef driftctl' "$dir/_driftctl"
if command -v zsh >/dev/null; then
    zsh -n "$dir/_driftctl"
    zsh -fc "fpath=($dir \$fpath); autoload -U compinit; compinit -u -D; [[ \$_comps[driftctl] = _driftctl ]]"
else
    echo "zsh is not installed: only its form was looked at"
fi
if command -v fish >/dev/null; then
    fish -n "$dir/c.fish"
    in_fish() { HOME=$dir PATH=$dir/stub:$PATH fish -c "source $dir/c.fish; complete -C '$1'"; }
    grep -q '^--guidance' <<<"$(in_fish 'driftctl sample --gu')"
    grep -q '^train' <<<"$(in_fish 'driftctl tr')"
    grep -q '^9' <<<"$(in_fish 'driftctl stop --url http://gpu:8080 ')" # ids, after a space
else
    echo "fish is not installed: only its form was looked at"
fi
[ "$(grep -c '__fish_use_subcommand' "$dir/c.fish")" = "$(driftctl help | grep -c '^  [a-z]')" ]
driftctl completion csh >/dev/null 2>&1 && exit 1
echo ok
