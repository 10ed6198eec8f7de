/* The compiler of a server that runs in valgrind. The server starts /proc/self/exe to compile a component; outside of the
 * server's own process that is valgrind itself, so COMPILER is started instead. Loaded in front of the C library, it is
 * what the server finds there; so the server needs no setting for its tests. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <spawn.h>
#include <string.h>

typedef int spawn(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *, char *const[],
                  char *const[]);

int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions, const posix_spawnattr_t *attributes,
                 char *const arguments[], char *const environment[])
{
    spawn *system = (spawn *)dlsym(RTLD_NEXT, "posix_spawnp");
    if (strcmp(file, "/proc/self/exe") == 0)
        file = COMPILER;
    return system(pid, file, actions, attributes, arguments, environment);
}
