// Shell completions of driftctl, made from the table of commands: bash, zsh, fish. Installed by
// meson and printed by `driftctl completion SHELL`. What they ask a server for has a short limit of
// time: a shell that completes a word is not to stand still.
#include "api/client/ctl.h"

#include <string.h>

// What may stand behind a command besides options; NULL: anything.
static const char *words(const struct ctl_command *k) {
    return !strcmp(k->name, "fetch")         ? "mnist fashion-mnist cifar10"
           : !strcmp(k->name, "data")        ? "add list show remove samples train"
           : !strcmp(k->name, "checkpoints") ? "show edit remove"
           : !strcmp(k->name, "evals")       ? "show remove"
           : !strcmp(k->name, "ablate")      ? "list show table plot follow stop resume remove"
           : !strcmp(k->name, "db")          ? "backup"
           : !strcmp(k->name, "completion")  ? "bash zsh fish"
           : !strcmp(k->name, "serve")       ? "live auto"
                                             : NULL;
}

static bool takes_recipe(const struct ctl_command *k) {
    return !strcmp(k->name, "train") || !strcmp(k->name, "configs");
}

static bool takes_checkpoint(const struct ctl_command *k) {
    return !strcmp(k->name, "serve") || !strcmp(k->name, "activate") || !strcmp(k->name, "export");
}

// The list whose names or ids stand behind an action of the command; NULL: none.
static const char *acts_on(const struct ctl_command *k) {
    return !strcmp(k->name, "checkpoints") ? "checkpoints id"
           : !strcmp(k->name, "evals")     ? "evals id"
           : !strcmp(k->name, "grids")     ? "grids id"
           : !strcmp(k->name, "data")      ? "data list name"
           : !strcmp(k->name, "ablate")    ? "ablate list id"
                                           : NULL;
}

// The list whose names or ids stand for such a value; NULL: none.
static const char *list_of(const struct ctl_opt *o) {
    return !strcmp(o->name, "checkpoint")  ? "checkpoints id"
           : !strcmp(o->name, "inception") ? "checkpoints id"
           : !strcmp(o->name, "job")       ? "jobs id"
           : !strcmp(o->name, "config")    ? "configs name"
                                           : NULL;
}

static bool takes_job(const struct ctl_command *k) {
    static const char *const names[] = {"job",    "follow",     "stop",    "pause", "resume",
                                        "remove", "checkpoint", "metrics", "edit"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(k->name, names[i]))
            return true;
    return false;
}

// Text inside single quotes: the `special` ones get a backslash; a single quote ends the quotes,
// adds itself and begins them anew, which zsh and fish both understand.
static void quoted(FILE *out, const char *s, const char *special) {
    for (; *s; s++) {
        if (*s == '\'')
            fputs("'\\''", out);
        else
            fprintf(out, strchr(special, *s) ? "\\%c" : "%c", *s);
    }
}

// The common options that have a value, as patterns of a shell's `case`: --url, -u, ... for those
// whose value is the next word; held: --url=*, -u*, ... for those that hold it. They say which
// server is asked for names, and by what right.
static void with_value(FILE *out, bool held, bool in_fish) {
    const char *between = in_fish ? " " : "|", *sep = "", *quote = in_fish ? "'" : "",
               *end = held ? "*" : "";
    for (const struct ctl_opt *o = ctl_common; o->name; o++) {
        if (!o->arg)
            continue;
        fprintf(out, "%s%s--%s%s%s%s", sep, quote, o->name, held ? "=" : "", end, quote);
        sep = between;
        if (o->letter)
            fprintf(out, "%s%s-%c%s%s", sep, quote, o->letter, end, quote);
    }
}

// Takes the words before the one to complete apart: `cmd`, and in `server` the options for the
// requests that completion makes. readline cuts words at : and =, so pieces are joined; `value`:
// the word to complete belongs to the one before it. Nothing that is typed is expanded but ~/.
static void bash_words(FILE *out) {
    fprintf(out, "_driftctl_words() {\n"
                 "  local w glue= i\n"
                 "  local -a words=()\n"
                 "  for w in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n"
                 "    w=${w//[\\\\\\\"\\']/}\n"
                 "    i=$((${#words[@]} - 1))\n"
                 "    case $w in\n"
                 "    *[!=@:]*) [[ $glue ]] && words[i]+=$w || words+=(\"${w/#\\~\\//$HOME/}\")\n"
                 "      glue= ;;\n"
                 "    *) [[ $i = -1 || ! $w ]] || { words[i]+=$w; glue=1; } ;;\n"
                 "    esac\n"
                 "  done\n"
                 "  value=$glue\n"
                 "  for ((i = 0; i < ${#words[@]}; i++)); do\n"
                 "    case ${words[i]} in\n"
                 "    ");
    with_value(out, false, false);
    fprintf(out, ") i=$((i + 1))\n"
                 "      if ((i < ${#words[@]})); then server+=(\"${words[i-1]}\" \"${words[i]}\")\n"
                 "      else value=1; fi ;;\n"
                 "    ");
    with_value(out, true, false);
    fprintf(out, ") server+=(\"${words[i]}\") ;;\n"
                 "    -*) ;;\n"
                 "    *) cmd=${cmd:-${words[i]}} ;;\n"
                 "    esac\n"
                 "  done\n"
                 "}\n");
}

static void bash(FILE *out) {
    fprintf(out, "# bash completion of driftctl, printed by `driftctl completion bash`\n"
                 "_driftctl_names() {\n"
                 "  driftctl \"${@:1:$#-1}\" \"${server[@]}\" --json --timeout 2 2>/dev/null | "
                 "sed -n 's/^ *\"'\"${!#}\"'\": \"\\([^\"]*\\)\".*/\\1/p'\n"
                 "}\n");
    bash_words(out);
    fprintf(out, "_driftctl() {\n"
                 "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
                 "  local cmd= w= names= value= i\n"
                 "  local -a server=()\n"
                 "  _driftctl_words\n"
                 "  local common='");
    for (const struct ctl_opt *o = ctl_common; o->name; o++)
        fprintf(out, "%s--%s", o == ctl_common ? "" : " ", o->name);
    fprintf(out, "'\n  case $cmd in\n  '') w='");
    for (const struct ctl_command *k = ctl_commands; k->name; k++)
        fprintf(out, "%s ", k->name);
    fprintf(out, "' ;;\n");
    for (const struct ctl_command *k = ctl_commands; k->name; k++) {
        fprintf(out, "  %s) w='", k->name);
        for (const struct ctl_opt *o = k->opts; o && o->name; o++)
            fprintf(out, "--%s ", o->name);
        if (words(k))
            fprintf(out, "%s ", words(k));
        fprintf(out, "' ;;\n");
    }
    fprintf(out, "  esac\n"
                 "  case $value$cmd:$cur in\n"
                 "  1*) w= common= ;;\n"
                 "  :*|*:-*) ;;\n"
                 "  help:*) names=$(driftctl help | sed -n 's/^  \\([a-z]*\\) .*/\\1/p') ;;\n"
                 "  train:*|configs:*) names=$(_driftctl_names configs name) ;;\n");
    for (const struct ctl_command *k = ctl_commands; k->name; k++)
        if (takes_job(k) || takes_checkpoint(k))
            fprintf(out, "  %s:*) names=$(_driftctl_names %s id) ;;\n", k->name,
                    takes_job(k) ? "jobs" : "checkpoints");
    for (const struct ctl_command *k = ctl_commands; k->name; k++)
        if (acts_on(k))
            fprintf(out, "  %s:*) names=$(_driftctl_names %s) ;;\n", k->name, acts_on(k));
    // Names come from the server: compgen gets them as variables, for it expands what it is given
    // as text, and they are quoted before they reach the command line.
    fprintf(out,
            "  esac\n"
            "  case $prev in\n"
            "  --set|-s) [[ $cmd != train ]] || { compopt -o nospace 2>/dev/null\n"
            "    w= common= names=$(driftctl configs --keys \"${server[@]}\" --timeout 2 "
            "2>/dev/null | sed 's/$/=/'); } ;;\n"
            "  --checkpoint|--inception) w= common= names=$(_driftctl_names checkpoints id) ;;\n"
            "  --job) w= common= names=$(_driftctl_names jobs id) ;;\n"
            "  esac\n"
            "  mapfile -t COMPREPLY < <(compgen -W '$w $common' -- \"$cur\"\n"
            "    IFS=$'\\n'; compgen -W '$names' -- \"$cur\")\n"
            "  [[ ${#COMPREPLY[@]} -gt 0 ]] || mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n"
            "  for i in \"${!COMPREPLY[@]}\"; do\n"
            "    printf -v \"COMPREPLY[i]\" %%q \"${COMPREPLY[i]}\"\n"
            "  done\n"
            "}\ncomplete -F _driftctl driftctl\n");
}

static void zsh_options(FILE *out, const struct ctl_opt *o) {
    for (; o && o->name; o++) {
        fprintf(out, "      '--%s%s[", o->name, o->arg ? "=" : "");
        quoted(out, o->help, "[]:");
        fprintf(out, o->arg ? "]:%s:%s'\n" : "]'\n", o->arg,
                o->arg && (strstr(o->arg, "FILE") || strstr(o->arg, "DIR")) ? "_files" : "");
    }
}

static bool repeats(const struct ctl_opt *o) {
    static const char *const names[] = {"set", "mirror", "tag", "untag"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(o->name, names[i]))
            return true;
    return false;
}

static void zsh_command_options(FILE *out, const struct ctl_opt *opts) {
    for (const struct ctl_opt *o = opts; o && o->name; o++) {
        fprintf(out, "      '%s--%s%s[", repeats(o) ? "*" : "", o->name, o->arg ? "=" : "");
        quoted(out, o->help, "[]:");
        if (list_of(o))
            fprintf(out, "]:%s: _driftctl_names %s' \\\n", o->arg, list_of(o));
        else if (!strcmp(o->name, "set"))
            fprintf(out, "]:%s:_driftctl_keys' \\\n", o->arg);
        else if (o->arg)
            fprintf(out, "]:%s:%s' \\\n", o->arg,
                    strstr(o->arg, "FILE") || strstr(o->arg, "DIR") ? "_files" : "");
        else
            fprintf(out, "]' \\\n");
    }
}

static void zsh_command(FILE *out, const struct ctl_command *k) {
    fprintf(out, "  %s) _arguments $common \\\n", k->name);
    zsh_command_options(out, k->opts);
    if (takes_checkpoint(k))
        fprintf(out, "      '1:checkpoint: _driftctl_names checkpoints id' ;;\n");
    else if (words(k) && acts_on(k))
        fprintf(out, "      '1:word:(%s)' '2:id: _driftctl_names %s' ;;\n", words(k), acts_on(k));
    else if (acts_on(k))
        fprintf(out, "      '1:id: _driftctl_names %s' ;;\n", acts_on(k));
    else if (words(k))
        fprintf(out, "      '1:word:(%s)' ;;\n", words(k));
    else if (takes_recipe(k))
        fprintf(out, "      '1:recipe:{_driftctl_names configs name; _files -g \"*.json\"}' ;;\n");
    else if (takes_job(k))
        fprintf(out, "      '1:job: _driftctl_names jobs id' ;;\n");
    else
        fprintf(out, "      '*:file:_files' ;;\n");
}

static void zsh(FILE *out) {
    fprintf(out, "#compdef driftctl\n"
                 "# zsh completion of driftctl, printed by `driftctl completion zsh`\n"
                 "_driftctl_names() {\n"
                 "  local -a names\n"
                 "  names=(${(f)\"$(driftctl $@[1,-2] $server --json --timeout 2 2>/dev/null |\n"
                 "      sed -n \"s/^ *\\\"$@[-1]\\\": \\\"\\([^\\\"]*\\)\\\".*/\\1/p\")\"})\n"
                 "  compadd -a names\n"
                 "}\n"
                 "_driftctl_keys() {\n"
                 "  local -a names\n"
                 "  names=(${(f)\"$(driftctl configs --keys $server --timeout 2 2>/dev/null)\"})\n"
                 "  compadd -S = -a names\n"
                 "}\n"
                 "_driftctl() {\n"
                 "  local curcontext=$curcontext state i\n"
                 "  local -a commands common server typed\n"
                 "  typed=(\"${(@Q)words}\")\n"
                 "  for ((i = 2; i < CURRENT; i++)); do\n"
                 "    case $typed[i] in\n"
                 "    (");
    with_value(out, false, false);
    fprintf(out, ") ((i + 1 < CURRENT)) && server+=($typed[i] ${typed[i+1]/#\\~\\//$HOME/})\n"
                 "      ((i++)) ;;\n"
                 "    (");
    with_value(out, true, false);
    fprintf(out, ") server+=($typed[i]) ;;\n"
                 "    esac\n"
                 "  done\n"
                 "  commands=(\n");
    for (const struct ctl_command *k = ctl_commands; k->name; k++) {
        fprintf(out, "      '%s:", k->name);
        quoted(out, k->help, ":");
        fprintf(out, "'\n");
    }
    fprintf(out, "  )\n  common=(\n");
    zsh_options(out, ctl_common);
    fprintf(out, "  )\n"
                 "  _arguments -C $common '(-)1: :->command' '(-)*:: :->rest'\n"
                 "  case $state in\n"
                 "  command) _describe command commands; return ;;\n"
                 "  rest) ;;\n"
                 "  *) return ;;\n"
                 "  esac\n"
                 "  case $words[1] in\n");
    for (const struct ctl_command *k = ctl_commands; k->name; k++)
        zsh_command(out, k);
    fprintf(out, "  esac\n}\n"
                 "if [[ $funcstack[1] = _driftctl ]]; then _driftctl \"$@\"; "
                 "else compdef _driftctl driftctl; fi\n");
}

static void fish_options(FILE *out, const char *when, const struct ctl_opt *o) {
    for (; o && o->name; o++) {
        fprintf(out, "complete -c driftctl%s%s%s -l %s", *when ? " -n '" : "", when,
                *when ? "'" : "", o->name);
        if (o->letter)
            fprintf(out, " -s %c", o->letter);
        if (list_of(o))
            fprintf(out, " -x -a '(__driftctl_names %s)'", list_of(o));
        else if (!strcmp(o->name, "set"))
            fprintf(out, " -x -a '(driftctl configs --keys (__driftctl_server) --timeout 2 "
                         "2>/dev/null | string replace -r \"\\$\" =)'");
        else if (o->arg)
            fprintf(out, strstr(o->arg, "FILE") || strstr(o->arg, "DIR") ? " -r -F" : " -x");
        fprintf(out, " -d '");
        quoted(out, o->help, "");
        fprintf(out, "'\n");
    }
}

static void fish(FILE *out) {
    fprintf(out, "# fish completion of driftctl, printed by `driftctl completion fish`\n"
                 "function __driftctl_server\n"
                 "    set -l words (commandline -opc)\n"
                 "    for i in (seq (count $words))\n"
                 "        switch $words[$i]\n"
                 "            case ");
    with_value(out, false, true);
    fprintf(out, "\n"
                 "                set -q words[(math $i + 1)]\n"
                 "                and string replace -r -- '^~/' $HOME/ $words[$i..(math $i + 1)]\n"
                 "            case ");
    with_value(out, true, true);
    fprintf(out, "\n"
                 "                echo $words[$i]\n"
                 "        end\n"
                 "    end\n"
                 "end\n"
                 "function __driftctl_names\n"
                 "    driftctl $argv[1..-2] (__driftctl_server) --json --timeout 2 2>/dev/null |\n"
                 "        string replace -rf '^ *\"'$argv[-1]'\": \"([^\"]*)\".*' '$1'\n"
                 "end\n"
                 "complete -c driftctl -f\n");
    fish_options(out, "", ctl_common);
    for (const struct ctl_command *k = ctl_commands; k->name; k++) {
        char when[80];
        fprintf(out, "complete -c driftctl -n __fish_use_subcommand -a %s -d '", k->name);
        quoted(out, k->help, "");
        fprintf(out, "'\n");
        snprintf(when, sizeof when, "__fish_seen_subcommand_from %s", k->name);
        fish_options(out, when, k->opts);
        if (words(k))
            fprintf(out, "complete -c driftctl -n '%s' -a '%s'\n", when, words(k));
        else if (takes_recipe(k))
            fprintf(out, "complete -c driftctl -n '%s' -F -a '(__driftctl_names configs name)'\n",
                    when);
        else if (takes_job(k))
            fprintf(out, "complete -c driftctl -n '%s' -a '(__driftctl_names jobs id)'\n", when);
        if (takes_checkpoint(k))
            fprintf(out, "complete -c driftctl -n '%s' -a '(__driftctl_names checkpoints id)'\n",
                    when);
        if (acts_on(k))
            fprintf(out, "complete -c driftctl -n '%s' -a '(__driftctl_names %s)'\n", when,
                    acts_on(k));
        if (!strcmp(k->name, "import"))
            fprintf(out, "complete -c driftctl -n '%s' -F\n", when);
    }
}

int ctl_completion(const char *shell, FILE *out) {
    if (!strcmp(shell, "bash"))
        bash(out);
    else if (!strcmp(shell, "zsh"))
        zsh(out);
    else if (!strcmp(shell, "fish"))
        fish(out);
    else
        return CTL_USAGE;
    return CTL_OK;
}
