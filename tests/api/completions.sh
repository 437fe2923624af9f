#!/bin/bash
# The man page of driftctl describes every command and option; each of its shell completions parses in
# its shell and offers what it should. A shell that is not installed is skipped; bash is always there.
# Arguments: driftctl, driftctl.1.
set -euo pipefail
page=$(sed 's/\\-/-/g; s/\\f[BIR]//g' "$2")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
ln -s "$(realpath "$1")" "$dir/driftctl"
PATH=$dir:$PATH
export DRIFTD_URL=http://127.0.0.1:1 # nobody there: names of jobs and recipes are left out

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
    grep -q '^--guidance' <<<"$(HOME=$dir fish -c "source $dir/c.fish; complete -C 'driftctl sample --gu'")"
    grep -q '^train' <<<"$(HOME=$dir fish -c "source $dir/c.fish; complete -C 'driftctl tr'")"
else
    echo "fish is not installed: only its form was looked at"
fi
[ "$(grep -c '__fish_use_subcommand' "$dir/c.fish")" = "$(driftctl help | grep -c '^  [a-z]')" ]
driftctl completion csh >/dev/null 2>&1 && exit 1
echo ok
