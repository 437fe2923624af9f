// Entry point of driftctl: where the server is and how to speak to it, then the command.
#include "api/client/ctl.h"
#include "driftd_config.h"

#include <fcntl.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ANSWER_S 60.0 // where --timeout is not given

static char *read_token(const char *file) {
    char *line = NULL;
    size_t size = 0;
    FILE *f = fopen(file, "re");
    bool found = false; // the first word that is no comment: the server's own file will do
    for (bool first = true; f && !found && getline(&line, &size, f) >= 0; first = false) {
        const size_t mark = first && !strncmp(line, "\xef\xbb\xbf", 3) ? 3 : 0; // of some editors
        const size_t skip = mark + strspn(line + mark, " \t\r\n");
        memmove(line, line + skip, strlen(line + skip) + 1);
        line[strcspn(line, " \t\r\n")] = '\0';
        found = *line && *line != '#';
    }
    if (!found) {
        fprintf(stderr, "driftctl: no token could be read from %s\n", ctl_safe(file));
        free(line);
        line = NULL;
    }
    if (f)
        fclose(f);
    return line;
}

static int connect_options(struct ctl *c) {
    const char *url = ctl_get(c, "url"), *file = ctl_get(c, "token-file");
    if (!url)
        url = getenv("DRIFTD_URL");
    if (!url || !*url)
        url = "http://127.0.0.1:8080";
    if (!file)
        file = getenv("DRIFTD_TOKEN_FILE");
    c->ca_file = ctl_get(c, "ca-file");
    if (!c->ca_file)
        c->ca_file = getenv("DRIFTD_CA_FILE");
    if (!strncmp(url, "unix:", 5)) {
        c->unix_path = strdup(url + 5);
        url = "http://localhost";
    }
    c->url = strdup(url);
    while (c->url && *c->url && c->url[strlen(c->url) - 1] == '/')
        c->url[strlen(c->url) - 1] = '\0';
    if (file && *file && !(c->token = read_token(file)))
        return CTL_USAGE;
    return 0;
}

int ctl_cmd_help(struct ctl *c) {
    for (const struct ctl_command *k = ctl_commands; k->name && c->narg; k++)
        if (!strcmp(k->name, c->arg[0])) {
            ctl_help(k, stdout);
            return 0;
        }
    if (c->narg) {
        fprintf(stderr, "driftctl: there is no command `%s`\n", ctl_safe(c->arg[0]));
        return CTL_USAGE;
    }
    ctl_help(NULL, stdout);
    return 0;
}

int ctl_cmd_completion(struct ctl *c) {
    int rc = ctl_completion(c->arg[0], stdout);
    if (rc)
        fprintf(stderr, "driftctl: expected bash, zsh or fish\n");
    return rc;
}

// A standard descriptor that is closed would be given to the next socket or file, and what is
// printed would go there. Writing to these fails as it does to a closed one.
static void hold_standard_descriptors(void) {
    int fd;
    do
        fd = open("/dev/null", O_RDONLY);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

int main(int argc, char **argv) {
    hold_standard_descriptors();
    struct ctl c = {.out = stdout};
    if (!setlocale(LC_CTYPE, "C.UTF-8")) // the server's text is UTF-8, whatever the locale
        setlocale(LC_CTYPE, "");
    int rc = ctl_parse(&c, argc, argv);
    if (rc)
        return rc;
    if (ctl_get(&c, "help")) {
        ctl_help(c.command, stdout);
        return 0;
    }
    if (ctl_get(&c, "version")) {
        printf("driftctl %s\n", DRIFTD_VERSION);
        return 0;
    }
    if (!c.command) {
        ctl_help(NULL, stderr);
        return CTL_USAGE;
    }
    c.json = ctl_get(&c, "json");
    c.tty = ctl_terminal(STDOUT_FILENO);
    c.timeout = ctl_get_num(&c, "timeout", ANSWER_S);
    curl_global_init(CURL_GLOBAL_DEFAULT);
    rc = connect_options(&c);
    if (!rc)
        rc = c.command->run(&c);
    if (fflush(stdout) || ferror(stdout)) {
        perror("driftctl: standard output");
        rc = rc ? rc : CTL_REFUSED;
    }
    free(c.url);
    free(c.unix_path);
    free(c.token);
    curl_global_cleanup();
    return rc;
}
