/* Records what a booted kernel answers to memory policy calls.
 *
 *     gcc -static -O2 -Wall -o calls calls.c      (in the guest: calls SCRIPT OUTPUT)
 *
 * Each line of the script is printed with its answer after "=>". Nothing is read, written or allocated between
 * the first line and the last, so that no page but those of the script is asked for.
 *
 *     map NAME PAGES [shared|ro]      an anonymous mapping; a page without access is left below it
 *     touch NAME START COUNT          writes to pages
 *     where NAME START COUNT          the node of each page, "." for none (move_pages without nodes)
 *     numa_maps NAME                  its lines of /proc/self/numa_maps, without the address
 *     read PATH                       a file, its lines joined by "|"
 *     write PATH VALUE                writes to a file
 *     inode NAME                      its lines of /proc/self/maps: a shared mapping has an inode
 *     migrated                        the lines of /proc/vmstat on migration
 *     pipe                            makes a pipe
 *     fill N                          writes N pages into it: as many calls of alloc_page under the task's policy
 *     cpu N                           runs on that CPU from now on
 *     user                            gives up root
 *     fork                            the script goes on in a child
 *     CALL ARGUMENT ...               a system call
 *
 * Arguments: numbers; null; bad (an address that is not mapped); NAME+OFFSET (bytes from the start of a mapping);
 * m:HEX,HEX (a nodemask of 64-bit words); mend:HEX (one whose next word is not mapped); i:N,N (ints);
 * p:NAME+OFFSET,... (pointers); out (a buffer that is printed: -> words of 64 bits); ints (printed as ints);
 * mode (printed as one int). Of a buffer only what was written is printed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096L
static char script[1 << 18], out[1 << 20];
static size_t used;
static struct { char name[16]; char *at; long pages; } regions[1024];
static int nregions;
static unsigned char pool[1 << 16] __attribute__((aligned(4096)));
static size_t pooled;
static char *edge;
/* Buffers that the call fills, and how each is printed: i(nts), m(ode) or w(ords). */
static struct { unsigned char *at; char how; } printed[4];
static int nprinted, pipes[2];

static void put(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    used += vsnprintf(out + used, sizeof out - used, format, arguments);
    va_end(arguments);
}
static void *room(size_t bytes) {
    void *at = pool + pooled;
    pooled += (bytes + 63) & ~63UL;
    if (pooled > sizeof pool) abort();
    memset(at, 0, bytes);
    return at;
}
static char *address(const char *text) {
    char name[16] = "";
    const char *plus = strchr(text, '+');
    size_t length = plus ? (size_t)(plus - text) : strlen(text);
    if (length > 15) return NULL;
    memcpy(name, text, length);
    for (int i = 0; i < nregions; i++)
        if (!strcmp(regions[i].name, name)) return regions[i].at + (plus ? atol(plus + 1) : 0);
    return NULL;
}
static long argument(char *text) {
    if (!strcmp(text, "null")) return 0;
    if (!strcmp(text, "bad")) return 0x10;
    if (!strcmp(text, "out") || !strcmp(text, "ints") || !strcmp(text, "mode")) {
        unsigned char *at = memset(room(512), 0xee, 512);
        printed[nprinted].at = at;
        printed[nprinted++].how = text[0];
        return (long)at;
    }
    if (!strncmp(text, "m:", 2) || !strncmp(text, "mend:", 5)) {
        unsigned long words[64];
        int n = 0;
        for (char *t = strchr(text, ':') + 1; n < 64;) {
            words[n++] = strtoul(t, &t, 16);
            if (*t++ != ',') break;
        }
        if (text[1] == 'e') return (long)memcpy(edge - 8 * n, words, 8 * n);
        return (long)memcpy(room(2 * PAGE), words, 8 * n); /* what follows is zero */
    }
    if (!strncmp(text, "i:", 2)) {
        int *ints = room(256), n = 0;
        for (char *t = text + 2; n < 64;) {
            ints[n++] = strtol(t, &t, 0);
            if (*t++ != ',') break;
        }
        return (long)ints;
    }
    if (!strncmp(text, "p:", 2)) {
        char **pointers = room(512), *save = NULL;
        int n = 0;
        for (char *t = strtok_r(text + 2, ",", &save); t; t = strtok_r(NULL, ",", &save))
            pointers[n++] = (char *)argument(t);
        return (long)pointers;
    }
    char *there = address(text);
    return there ? (long)there : (long)strtoull(text, NULL, 0);
}
static void file(const char *path, const char *only, int length) {
    static char text[1 << 16];
    int fd = open(path, O_RDONLY);
    ssize_t n = 0, r;
    if (fd < 0) { put("=> -1 %d", errno); return; }
    while ((r = read(fd, text + n, sizeof text - 1 - n)) > 0) n += r;
    close(fd);
    text[n] = 0;
    put("=>");
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        if (!only && (strcmp(path, "/proc/vmstat") || !strncmp(line, "pgmigrate_", 10))) put(" %s |", line);
        else if (!only) continue;
        else {
            char *at = (char *)strtoul(line, NULL, 16), *from = (char *)only;
            if (at >= from && at < from + length) put(" +%ld%s |", (long)(at - from) / PAGE, strchr(line, ' '));
        }
    }
}
static long called(char **a, int n) {
    static const struct { const char *name; long number; } calls[] = {
        {"set_mempolicy", SYS_set_mempolicy}, {"get_mempolicy", SYS_get_mempolicy}, {"mbind", SYS_mbind},
        {"migrate_pages", SYS_migrate_pages}, {"move_pages", SYS_move_pages}, {"set_mempolicy_home_node", 450}};
    long v[6] = {0};
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        if (!strcmp(calls[i].name, a[0])) {
            for (int j = 1; j < n && j < 7; j++) v[j - 1] = argument(a[j]);
            return syscall(calls[i].number, v[0], v[1], v[2], v[3], v[4], v[5]);
        }
    errno = -1;
    return -1;
}
int main(int argc, char **argv) {
    if (argc < 3) return 2;
    int fd = open(argv[1], O_RDONLY);
    if (fd < 0 || read(fd, script, sizeof script - 1) < 0) return 2;
    close(fd);
    int to = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC, 0644);
    memset(out, 1, sizeof out);
    memset(pool, 1, sizeof pool);
    edge = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(edge, 0, PAGE);
    munmap(edge + PAGE, PAGE);
    edge += PAGE;
    char *save = NULL;
    for (char *line = strtok_r(script, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        put("%s ", line);
        if (*line == '#' || !*line) { put("\n"); continue; }
        char copy[1024], *a[9] = {0}, *inner = NULL;
        int n = 0;
        snprintf(copy, sizeof copy, "%s", line);
        for (char *t = strtok_r(copy, " ", &inner); t && n < 9; t = strtok_r(NULL, " ", &inner)) a[n++] = t;
        long count = n > 3 ? atol(a[3]) : 0;
        pooled = 0;
        nprinted = 0;
        if (!strcmp(a[0], "map")) {
            long pages = atol(a[2]);
            int shared = n > 3 && !strcmp(a[3], "shared"), ro = n > 3 && !strcmp(a[3], "ro");
            char *m = mmap(NULL, (pages + 2) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            m = mmap(m + PAGE, pages * PAGE, PROT_READ | (ro ? 0 : PROT_WRITE),
                     MAP_FIXED | MAP_ANONYMOUS | (shared ? MAP_SHARED : MAP_PRIVATE), -1, 0);
            munmap(m + pages * PAGE, PAGE);
            snprintf(regions[nregions].name, 16, "%s", a[1]);
            regions[nregions].at = m;
            regions[nregions++].pages = pages;
            put("=> first page %ld", (long)((uintptr_t)m / PAGE));
        } else if (!strcmp(a[0], "touch")) {
            volatile char *at = address(a[1]) + atol(a[2]) * PAGE;
            for (long i = 0; i < count; i++) at[i * PAGE] = 1;
            put("=>");
        } else if (!strcmp(a[0], "where")) {
            void *pages[512];
            int status[512];
            for (long i = 0; i < count; i++) pages[i] = address(a[1]) + (atol(a[2]) + i) * PAGE;
            long r = syscall(SYS_move_pages, 0, count, pages, NULL, status, 0);
            put("=> ");
            if (r) put("%ld %d", r, errno);
            else for (long i = 0; i < count; i++) put("%c", status[i] < 0 ? '.' : '0' + status[i]);
        } else if (!strcmp(a[0], "numa_maps")) {
            for (int i = 0; i < nregions; i++)
                if (!strcmp(regions[i].name, a[1])) file("/proc/self/numa_maps", regions[i].at, regions[i].pages * PAGE);
        } else if (!strcmp(a[0], "read")) file(a[1], NULL, 0);
        else if (!strcmp(a[0], "write")) {
            int f = open(a[1], O_WRONLY);
            long r = f < 0 ? -1 : write(f, a[2], strlen(a[2]));
            put("=> %d %d", r < 0 ? -1 : 0, r < 0 ? errno : 0);
            if (f >= 0) close(f);
        } else if (!strcmp(a[0], "cpu")) {
            cpu_set_t set;
            CPU_ZERO(&set);
            CPU_SET(atoi(a[1]), &set);
            long r = sched_setaffinity(0, sizeof set, &set);
            sched_yield();
            put("=> %ld", r);
        } else if (!strcmp(a[0], "migrated")) {
            file("/proc/vmstat", NULL, 0);
        } else if (!strcmp(a[0], "pipe")) {
            put("=> %d", pipe(pipes));
        } else if (!strcmp(a[0], "fill")) {
            static char page[PAGE];
            for (long i = 0; i < atol(a[1]); i++) if (write(pipes[1], page, PAGE) != PAGE) put("! %d ", errno);
            put("=>");
        } else if (!strcmp(a[0], "inode")) {
            for (int i = 0; i < nregions; i++)
                if (!strcmp(regions[i].name, a[1])) file("/proc/self/maps", regions[i].at, regions[i].pages * PAGE);
        } else if (!strcmp(a[0], "user")) put("=> %d", setresgid(1000, 1000, 1000) | setresuid(1000, 1000, 1000));
        else if (!strcmp(a[0], "fork")) {
            pid_t child = fork();
            if (child) { waitpid(child, NULL, 0); _exit(0); }
            put("=>");
        } else {
            errno = 0;
            long r = called(a, n);
            put("=> %ld %d", r, r < 0 ? errno : 0);
            for (int i = 0; i < nprinted; i++) {
                unsigned long *words = (unsigned long *)printed[i].at;
                int *ints = (int *)printed[i].at;
                put(" ->");
                if (printed[i].how == 'o')
                    for (int j = 0; j < 3 && words[j] != 0xeeeeeeeeeeeeeeee; j++) put(" %lx", words[j]);
                else
                    for (int j = 0; j < (printed[i].how == 'm' ? 1 : 8) && ints[j] != (int)0xeeeeeeee; j++)
                        put(printed[i].how == 'm' ? " %#x" : " %d", ints[j]);
            }
        }
        put("\n");
    }
    for (size_t o = 0; o < used;) {
        ssize_t r = write(to, out + o, used - o);
        if (r <= 0) return 1;
        o += r;
    }
    return 0;
}
