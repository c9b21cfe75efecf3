/* Records what a booted kernel answers to calls on address spaces, and what it makes of them.
 *
 *     gcc -static -O2 -Wall -o calls calls.c      (in the guest: calls SCRIPT OUTPUT)
 *
 * Each line of the script is printed with its answer after "=>". What the process has mapped from A on is printed
 * after " ;" when it has changed: "first+pages permissions flags, amounts" for each area, in pages from A.
 *
 *     begin                          a new process, p0; all its areas are printed
 *     fork pN                        a child, to which lines that begin with pN go
 *     limit NAME BYTES               setrlimit(RLIMIT_NAME)
 *     user                           gives up root, with all capabilities
 *     open NAME PATH FLAGS           opens a file; NAME is its descriptor then
 *     make PATH BYTES                makes a file of that size
 *     touch ADDRESS COUNT r|w BYTES  reads or writes COUNT times, BYTES apart: how often, and the signal that ended it
 *     write PATH VALUE               writes to a file
 *     read PATH [WORD]               a file's lines (that begin with WORD), joined by "|"
 *     pool                           huge pages: all, free, promised, surplus; free ones of nodes 0 and 1
 *     exit                           the process ends
 *     CALL ARGUMENT ...              a system call
 *
 * Arguments: numbers, with p for pages and h for huge pages of 2 MiB; names of constants, of open files, A (where
 * scripts map), B (where the heap begins), T (the end of all addresses), max (all bits), out (a buffer that is printed);
 * joined by | or + or -.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define HUGE 0x200000UL
#define A 0x100000000000UL
#define WINDOW (1UL << 40)
#define WORKERS 4

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#endif
#define K(name) {#name, (unsigned long)(name)}
static struct { const char *name; unsigned long value; } names[128] = {
    {"A", A}, {"B", 0}, {"T", 0x7ffffffff000}, {"max", ~0UL},
    K(PROT_NONE), K(PROT_READ), K(PROT_WRITE), K(PROT_EXEC), K(PROT_GROWSDOWN), K(PROT_GROWSUP), {"PROT_SEM", 8},
    K(MAP_SHARED), K(MAP_PRIVATE), {"MAP_SHARED_VALIDATE", 3}, K(MAP_FIXED), K(MAP_ANONYMOUS), K(MAP_GROWSDOWN),
    K(MAP_LOCKED), K(MAP_NORESERVE), K(MAP_POPULATE), K(MAP_NONBLOCK), K(MAP_STACK), K(MAP_HUGETLB), {"MAP_SYNC", 0x80000},
    {"MAP_FIXED_NOREPLACE", 0x100000}, {"MAP_HUGE_2MB", 21UL << 26}, {"MAP_HUGE_1GB", 30UL << 26}, {"MAP_HUGE_64KB", 16UL << 26},
    K(MREMAP_MAYMOVE), K(MREMAP_FIXED), K(MREMAP_DONTUNMAP), K(MS_ASYNC), K(MS_INVALIDATE), K(MS_SYNC),
    K(MCL_CURRENT), K(MCL_FUTURE), K(MCL_ONFAULT), {"MLOCK_ONFAULT", 1},
    K(MADV_NORMAL), K(MADV_RANDOM), K(MADV_SEQUENTIAL), K(MADV_WILLNEED), K(MADV_DONTNEED), K(MADV_FREE), K(MADV_REMOVE),
    K(MADV_DONTFORK), K(MADV_DOFORK), K(MADV_MERGEABLE), K(MADV_UNMERGEABLE), K(MADV_HUGEPAGE), K(MADV_NOHUGEPAGE),
    K(MADV_DONTDUMP), K(MADV_DODUMP), K(MADV_WIPEONFORK), K(MADV_KEEPONFORK), K(MADV_COLD), K(MADV_PAGEOUT),
    K(MADV_POPULATE_READ), K(MADV_POPULATE_WRITE), K(MADV_DONTNEED_LOCKED), K(MADV_COLLAPSE),
    K(SHM_HUGETLB), K(SHM_NORESERVE), K(SHM_RDONLY), K(SHM_REMAP), K(SHM_RND), K(IPC_CREAT), K(IPC_PRIVATE), K(IPC_RMID),
    K(O_RDONLY), K(O_WRONLY), K(O_RDWR), K(O_CREAT), K(PR_SET_VMA), {"MFD_HUGETLB", 4},
    {"MPOL_DEFAULT", 0}, {"MPOL_BIND", 2}};
static const struct { const char *name; long number; } calls[] = {
    {"mmap", SYS_mmap}, {"munmap", SYS_munmap}, {"mprotect", SYS_mprotect}, {"mremap", SYS_mremap}, {"madvise", SYS_madvise},
    {"brk", SYS_brk}, {"mlock", SYS_mlock}, {"mlock2", SYS_mlock2}, {"munlock", SYS_munlock}, {"mlockall", SYS_mlockall},
    {"munlockall", SYS_munlockall}, {"msync", SYS_msync}, {"mincore", SYS_mincore}, {"remap_file_pages", SYS_remap_file_pages},
    {"prctl", SYS_prctl}, {"shmget", SYS_shmget}, {"shmat", SYS_shmat}, {"shmdt", SYS_shmdt}, {"shmctl", SYS_shmctl},
    {"mbind", SYS_mbind}, {"ftruncate", SYS_ftruncate}, {"close", SYS_close}, {"mseal", 462}};
static const struct { const char *name; int number; } limits[] = {
    {"AS", RLIMIT_AS}, {"DATA", RLIMIT_DATA}, {"STACK", RLIMIT_STACK}, {"MEMLOCK", RLIMIT_MEMLOCK}, {"FSIZE", RLIMIT_FSIZE}};

static char script[1 << 18], text[1 << 20], shown[1 << 14], was[1 << 14];
static unsigned char vector[4096];
static int ask[WORKERS][2], told[2], used_vector;
/* What a worker answers. */
static char *answer;
static size_t used;
static sigjmp_buf back;
static volatile sig_atomic_t caught, code;

static void put(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    used += vsnprintf(answer + used, (1 << 16) - used, format, arguments);
    va_end(arguments);
}
static unsigned long known(const char *word, size_t length, int *found) {
    for (int i = 0; i < 128 && names[i].name; i++)
        if (strlen(names[i].name) == length && !memcmp(names[i].name, word, length)) { *found = 1; return names[i].value; }
    *found = 0;
    return 0;
}
static unsigned long number(const char *word) {
    if (!strcmp(word, "out")) { used_vector = 1; return (unsigned long)vector; }
    unsigned long all = 0;
    while (*word) {
        unsigned long sum = 0;
        for (;;) {
            int minus = *word == '-', found;
            if (*word == '-' || *word == '+') word++;
            size_t length = strcspn(word, "+-|");
            unsigned long value = known(word, length, &found);
            if (!found) {
                char *end;
                value = strtoul(word, &end, 0);
                if (*end == 'p') value *= PAGE;
                if (*end == 'h') value *= HUGE;
            }
            sum += minus ? -value : value;
            word += length;
            if (*word != '+' && *word != '-') break;
        }
        all |= sum;
        if (*word == '|') word++;
    }
    return all;
}
static void name(const char *word, unsigned long value) {
    static char own[32][16];
    static int many;
    for (int i = 0; i < 128; i++) {
        if (!names[i].name && many < 32) names[i].name = strncpy(own[many++], word, 15);
        if (names[i].name && !strcmp(names[i].name, word)) { names[i].value = value; return; }
    }
}
static size_t load(const char *path) {
    int fd = open(path, O_RDONLY);
    ssize_t n = 0, r;
    if (fd < 0) return 0;
    while ((r = read(fd, text + n, sizeof text - 1 - n)) > 0) n += r;
    close(fd);
    text[n] = 0;
    return n;
}
/* The areas from A on, with what smaps says of them, and the sizes of all. */
static void state(void) {
    size_t n = 0;
    int inside = 0, first = 1;
    char *save = NULL;
    shown[0] = 0;
    load("/proc/self/smaps");
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        unsigned long low, high, kb;
        char allowed[8], label[32];
        if (sscanf(line, "%lx-%lx %7s", &low, &high, allowed) == 3) {
            inside = low >= A && low < A + WINDOW;
            if (inside) n += snprintf(shown + n, sizeof shown - n, "%s%ld+%ld %s", first ? "" : ", ", (long)((low - A) / PAGE), (long)((high - low) / PAGE), allowed), first = 0;
        } else if (inside && sscanf(line, "%31[^:]: %lu kB", label, &kb) == 2) {
            int amount = !strcmp(label, "Rss") || !strcmp(label, "Anonymous") || strstr(label, "_Hugetlb") || !strcmp(label, "Locked");
            int size = strstr(label, "PageSize") != NULL;
            if ((amount && kb) || (size && kb != 4)) n += snprintf(shown + n, sizeof shown - n, " %s=%lu", label, kb);
        } else if (inside && !strncmp(line, "VmFlags:", 8)) {
            char *inner = NULL;
            for (char *flag = strtok_r(line + 8, " ", &inner); flag; flag = strtok_r(NULL, " ", &inner))
                if (!strstr("rd wr ex sh mr me ms", flag)) n += snprintf(shown + n, sizeof shown - n, " %s", flag);
        }
    }
    load("/proc/self/status");
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        if (!strncmp(line, "VmSize", 6) || !strncmp(line, "VmLck", 5) || !strncmp(line, "VmData", 6) || !strncmp(line, "Hugetlb", 7))
            n += snprintf(shown + n, sizeof shown - n, " %s%ld", *line == 'V' && line[2] == 'S' ? "; " : "", atol(strchr(line, ':') + 1) / 4);
    if (strcmp(shown, was)) put(" ; %s", shown);
    strcpy(was, shown);
}
static void on_signal(int signal, siginfo_t *info, void *context) {
    caught = signal;
    code = info->si_code;
    siglongjmp(back, 1);
}
static void touch(char **a) {
    volatile char *at = (char *)number(a[1]);
    long count = atol(a[2]), step = number(a[4]);
    volatile long done = 0;
    caught = 0;
    if (!sigsetjmp(back, 1)) {
        for (; done < count; done++)
            if (*a[3] == 'w') at[done * step] = 1;
            else (void)at[done * step];
    }
    put("=> %ld", done);
    if (caught) put(" %s %d", caught == SIGBUS ? "SIGBUS" : "SIGSEGV", code);
}
static void file(const char *path, const char *only) {
    char *save = NULL;
    put("=>");
    load(path);
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        if (!only || !strncmp(line, only, strlen(only))) put(" %s |", line);
}
static void pool(void) {
    static const char *const free_of = "/sys/devices/system/node/node%d/hugepages/hugepages-2048kB/free_hugepages";
    char *save = NULL, path[128];
    put("=>");
    load("/proc/meminfo");
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        if (!strncmp(line, "HugePages_", 10)) put(" %ld", atol(strchr(line, ':') + 1));
    for (int node = 0; node < 2; node++) {
        snprintf(path, sizeof path, free_of, node);
        load(path);
        put("%s%ld", node ? " " : " ; ", atol(text));
    }
}
static void work(int mine);
static void obey(char *line, int mine) {
    char *a[9] = {0}, *inner = NULL;
    int n = 0;
    for (char *t = strtok_r(line, " ", &inner); t && n < 9; t = strtok_r(NULL, " ", &inner)) a[n++] = t;
    used = 0;
    used_vector = 0;
    errno = 0;
    if (!strcmp(a[0], "begin")) {
        file("/proc/self/maps", NULL);
        /* start_code end_code start_stack start_data end_data start_brk of proc(5), and the end of the heap */
        load("/proc/self/stat");
        char *field = strtok_r(strrchr(text, ')') + 2, " ", &inner);
        for (int i = 3; field; i++, field = strtok_r(NULL, " ", &inner))
            if ((i >= 26 && i <= 28) || (i >= 45 && i <= 47)) put(" %lx", strtoul(field, NULL, 10));
        put(" %lx", number("B"));
        was[0] = 0;
    } else if (!strcmp(a[0], "fork")) {
        /* a child of the driver, which waits for its end */
        pid_t child = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
        if (!child) work(a[1][1] - '0');
        put("=> %d %d", child < 0 ? -1 : 0, child < 0 ? errno : 0);
    } else if (!strcmp(a[0], "limit")) {
        for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
            if (!strcmp(limits[i].name, a[1])) {
                struct rlimit to = {number(a[2]), number(a[2])};
                put("=> %d", setrlimit(limits[i].number, &to));
            }
    } else if (!strcmp(a[0], "user")) {
        put("=> %d", setresgid(1000, 1000, 1000) | setresuid(1000, 1000, 1000));
        prctl(PR_SET_DUMPABLE, 1); /* its files in /proc are its own */
    }
    else if (!strcmp(a[0], "open")) {
        int fd = open(a[2], number(a[3]), 0644);
        name(a[1], fd);
        put("=> %d", fd < 0 ? -errno : 0);
    } else if (!strcmp(a[0], "make")) {
        int fd = open(a[1], O_RDWR | O_CREAT | O_TRUNC, 0666);
        put("=> %d", ftruncate(fd, number(a[2])));
        close(fd);
    } else if (!strcmp(a[0], "touch")) touch(a);
    else if (!strcmp(a[0], "pool")) pool();
    else if (!strcmp(a[0], "read")) file(a[1], a[2]);
    else if (!strcmp(a[0], "write")) {
        int fd = open(a[1], O_WRONLY);
        long r = fd < 0 ? -1 : write(fd, a[2], strlen(a[2]));
        put("=> %d %d", r < 0 ? -1 : 0, r < 0 ? errno : 0);
        if (fd >= 0) close(fd);
    } else {
        unsigned long v[6] = {0};
        long called = -1;
        for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
            if (!strcmp(calls[i].name, a[0])) called = calls[i].number;
        for (int j = 1; j < n && j < 7; j++) v[j - 1] = number(a[j]);
        memset(vector, 0xee, sizeof vector);
        errno = 0;
        long r = syscall(called, v[0], v[1], v[2], v[3], v[4], v[5]);
        if (r == -1) put("=> -1 %d", errno);
        else put("=> %#lx", r);
        if (!strcmp(a[0], "shmget") && r >= 0) name("shmid", r);
        if (used_vector) for (put(" ->"), n = 0; vector[n] != 0xee; n++) put(" %d", vector[n]);
    }
    state();
}
/* A process: lines come through its pipe, the answer goes through shared memory. */
static void work(int mine) {
    static char line[1024];
    for (;;) {
        int n = 0;
        while (n < 1023 && read(ask[mine][0], line + n, 1) == 1 && line[n] != '\n') n++;
        line[n] = 0;
        if (!strcmp(line, "exit")) {
            used = 0;
            put("=>");
            _exit(write(told[1], "x", 1) != 1);
        }
        obey(line, mine);
        if (write(told[1], "a", 1) != 1) _exit(1);
    }
}
int main(int argc, char **argv) {
    if (argc < 3) return 2;
    int fd = open(argv[1], O_RDONLY), to = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0 || to < 0 || read(fd, script, sizeof script - 1) < 0) return 2;
    close(fd);
    answer = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
    cpu_set_t first_cpu; /* huge pages come from its node */
    CPU_ZERO(&first_cpu);
    CPU_SET(0, &first_cpu);
    if (sched_setaffinity(0, sizeof first_cpu, &first_cpu)) return 3;
    for (int i = 0; i < WORKERS; i++) if (pipe(ask[i])) return 3;
    if (pipe(told)) return 3;
    memset(text, 1, sizeof text);
    memset(shown, 1, sizeof shown);
    name("B", syscall(SYS_brk, 0));
    pid_t first = 0;
    char *save = NULL;
    for (char *line = strtok_r(script, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        static char out[(1 << 16) + 1024];
        int mine = 0, n;
        char *rest = line;
        if (*line == '#') { n = snprintf(out, sizeof out, "%s\n", line); if (write(to, out, n) != n) return 1; continue; }
        if (line[0] == 'p' && line[1] >= '0' && line[1] < '0' + WORKERS && line[2] == ' ') mine = line[1] - '0', rest = line + 3;
        if (!strcmp(rest, "begin")) {
            if (first) for (int i = 0; i < WORKERS; i++) if (write(ask[i][1], "exit\n", 5) != 5) return 4;
            while (first && waitpid(-1, NULL, 0) > 0) {}
            for (int i = 0; i < WORKERS; i++) { /* what nobody has read */
                fcntl(ask[i][0], F_SETFL, O_NONBLOCK);
                while (read(ask[i][0], text, sizeof text) > 0) {}
                fcntl(ask[i][0], F_SETFL, 0);
            }
            fcntl(told[0], F_SETFL, O_NONBLOCK);
            while (read(told[0], text, sizeof text) > 0) {}
            fcntl(told[0], F_SETFL, 0);
            first = fork();
            if (!first) work(0);
        }
        struct pollfd wait = {.fd = told[0], .events = POLLIN};
        char byte = 0;
        if (dprintf(ask[mine][1], "%s\n", rest) < 0) return 4;
        if (poll(&wait, 1, 10000) == 1 && read(told[0], &byte, 1) == 1) n = snprintf(out, sizeof out, "%s %s\n", line, answer);
        else n = snprintf(out, sizeof out, "%s => died\n", line);
        if (byte == 'x') waitpid(-1, NULL, 0); /* what it had is gone before the next line */
        if (write(to, out, n) != n) return 1;
    }
    return 0;
}
