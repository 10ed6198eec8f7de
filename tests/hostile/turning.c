/* A resolver whose answer turns: of TURNING_NAME every other look-up says 127.0.0.1, and the ones between them 127.0.0.2.
 * All other names are the system's. Loaded in front of the C library, it is what the server finds there; so the server
 * needs no setting for its tests. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdatomic.h>
#include <string.h>

typedef int look_up(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
    static atomic_uint asked;
    look_up *system = (look_up *)dlsym(RTLD_NEXT, "getaddrinfo");
    if (name && strcmp(name, TURNING_NAME) == 0)
        name = atomic_fetch_add(&asked, 1) % 2 ? "127.0.0.2" : "127.0.0.1";
    return system(name, service, hints, found);
}
