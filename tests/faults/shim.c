/* Preloaded into a process under test: does something bad at its n-th call that changes files.
 *
 * FAULT_UNDER   only calls on files below this folder count
 * FAULT_CALLS   which calls count, separated by commas: fsync, fdatasync, msync, rename, link,
 *               unlink, truncate, write
 * FAULT_ACTION  "kill": SIGKILL just before the call; "full": it and all later ones of its kinds
 *               fail with ENOSPC; "count": nothing
 * FAULT_AT      n, from 1
 * FAULT_LOG     each counted call is a line of this file
 * FAULT_ARMED   "0": counting begins when the process calls fault_arm()
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long counted;
static atomic_int armed = -1;

void fault_arm(void) { atomic_store(&armed, 1); }

static int is_armed(void) {
    int now = atomic_load(&armed);
    if (now < 0) {
        const char *text = getenv("FAULT_ARMED");
        now = !(text && text[0] == '0');
        atomic_store(&armed, now);
    }
    return now;
}

static int wanted(const char *call) {
    const char *calls = getenv("FAULT_CALLS");
    size_t length = strlen(call);
    for (const char *at = calls; at && *at;) {
        const char *end = strchrnul(at, ',');
        if ((size_t)(end - at) == length && !strncmp(at, call, length)) return 1;
        at = *end ? end + 1 : end;
    }
    return 0;
}

static int below(const char *path) {
    const char *under = getenv("FAULT_UNDER");
    char whole[PATH_MAX];
    if (!under || !path) return 0;
    if (path[0] != '/') {
        char here[PATH_MAX];
        if (!getcwd(here, sizeof here)) return 0;
        if (snprintf(whole, sizeof whole, "%s/%s", here, path) >= (int)sizeof whole) return 0;
        path = whole;
    }
    return !strncmp(path, under, strlen(under));
}

/* Whether the call must fail with ENOSPC; kills the process when it is the one to die at. */
static int fault(const char *call, const char *path) {
    int saved = errno;
    if (!is_armed() || !wanted(call) || !below(path)) {
        errno = saved;
        return 0;
    }
    long number = atomic_fetch_add(&counted, 1) + 1;
    const char *log = getenv("FAULT_LOG"), *at = getenv("FAULT_AT"), *do_ = getenv("FAULT_ACTION");
    if (log) {
        int fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        char line[PATH_MAX + 64];
        int size = snprintf(line, sizeof line, "%s %s\n", call, path);
        if (fd >= 0 && size > 0) {
            if (syscall(SYS_write, fd, line, size) < 0) abort();
            syscall(SYS_close, fd);
        }
    }
    long chosen = at ? atol(at) : 0;
    if (chosen > 0 && do_ && !strcmp(do_, "kill") && number == chosen) {
        syscall(SYS_kill, getpid(), SIGKILL);
        for (;;) pause();
    }
    if (chosen > 0 && do_ && !strcmp(do_, "full") && number >= chosen) {
        errno = ENOSPC;
        return 1;
    }
    errno = saved;
    return 0;
}

static int fault_fd(const char *call, int fd) {
    char link[64], path[PATH_MAX];
    if (!is_armed() || !wanted(call)) return 0;
    int saved = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    errno = saved;
    if (size <= 0) return 0;
    path[size] = 0;
    return fault(call, path);
}

#define REAL(type, name, ...)                                                   \
    static type (*real)(__VA_ARGS__);                                           \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

int fsync(int fd) {
    REAL(int, "fsync", int);
    return fault_fd("fsync", fd) ? -1 : real(fd);
}
int fdatasync(int fd) {
    REAL(int, "fdatasync", int);
    return fault_fd("fdatasync", fd) ? -1 : real(fd);
}
int msync(void *start, size_t size, int flags) {
    REAL(int, "msync", void *, size_t, int);
    /* Which file is mapped here is not known: all count. */
    return fault("msync", getenv("FAULT_UNDER")) ? -1 : real(start, size, flags);
}
int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    return fault("rename", to) ? -1 : real(from, to);
}
int renameat(int a, const char *from, int b, const char *to) {
    REAL(int, "renameat", int, const char *, int, const char *);
    return fault("rename", to) ? -1 : real(a, from, b, to);
}
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    REAL(int, "renameat2", int, const char *, int, const char *, unsigned);
    return fault("rename", to) ? -1 : real(a, from, b, to, flags);
}
int link(const char *from, const char *to) {
    REAL(int, "link", const char *, const char *);
    return fault("link", to) ? -1 : real(from, to);
}
int linkat(int a, const char *from, int b, const char *to, int flags) {
    REAL(int, "linkat", int, const char *, int, const char *, int);
    return fault("link", to) ? -1 : real(a, from, b, to, flags);
}
int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    return fault("unlink", path) ? -1 : real(path);
}
int unlinkat(int folder, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    return fault("unlink", path) ? -1 : real(folder, path, flags);
}
int ftruncate(int fd, off_t size) {
    REAL(int, "ftruncate", int, off_t);
    return fault_fd("truncate", fd) ? -1 : real(fd, size);
}
int ftruncate64(int fd, off64_t size) {
    REAL(int, "ftruncate64", int, off64_t);
    return fault_fd("truncate", fd) ? -1 : real(fd, size);
}
ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    return fault_fd("write", fd) ? -1 : real(fd, data, size);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
    return fault_fd("write", fd) ? -1 : real(fd, data, size, at);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    return fault_fd("write", fd) ? -1 : real(fd, data, size, at);
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    return fault_fd("write", fd) ? -1 : real(fd, parts, count);
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    REAL(ssize_t, "pwritev", int, const struct iovec *, int, off_t);
    return fault_fd("write", fd) ? -1 : real(fd, parts, count, at);
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) {
    REAL(ssize_t, "pwritev64", int, const struct iovec *, int, off64_t);
    return fault_fd("write", fd) ? -1 : real(fd, parts, count, at);
}
/* What Python's os.pwritev calls, with a large enough C library. */
ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t at, int flags) {
    REAL(ssize_t, "pwritev2", int, const struct iovec *, int, off_t, int);
    return fault_fd("write", fd) ? -1 : real(fd, parts, count, at, flags);
}
ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t at, int flags) {
    REAL(ssize_t, "pwritev64v2", int, const struct iovec *, int, off64_t, int);
    return fault_fd("write", fd) ? -1 : real(fd, parts, count, at, flags);
}
