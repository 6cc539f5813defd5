/* Makes reads of the files named by FAULT_NAME fail from the byte FAULT_FROM on, FAULT_TIMES times in all processes:
   with the error FAULT_HOW, or if that is negative with the signal -FAULT_HOW.  For LD_PRELOAD; see read_faults.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

/* Whether a read fails now; shortens one that begins before the place of the fault. */
static int fails(int fd, long offset, size_t *count) {
    char link[64], path[4096];
    const char *name = getenv("FAULT_NAME");
    if (!name) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    long from = atol(getenv("FAULT_FROM"));
    if (!strstr(path, name) || strncmp(path, "/memfd:", 7) == 0 || offset + (long)*count <= from) return 0;
    if (offset < from) {
        *count = from - offset;
        return 0;
    }
    int log = open(getenv("FAULT_LOG"), O_WRONLY | O_APPEND | O_CREAT, 0600);
    flock(log, LOCK_EX);
    int fault = lseek(log, 0, SEEK_END) < atol(getenv("FAULT_TIMES")) && write(log, "x", 1) == 1;
    close(log);
    if (!fault) return 0;
    int how = atoi(getenv("FAULT_HOW"));
    if (how < 0) raise(-how);
    errno = how;
    return how > 0;
}

ssize_t read(int fd, void *buffer, size_t count) {
    static ssize_t (*honest)(int, void *, size_t);
    if (!honest) honest = dlsym(RTLD_NEXT, "read");
    return fails(fd, lseek(fd, 0, SEEK_CUR), &count) ? -1 : honest(fd, buffer, count);
}

ssize_t pread64(int fd, void *buffer, size_t count, off64_t offset) {
    static ssize_t (*honest)(int, void *, size_t, off64_t);
    if (!honest) honest = dlsym(RTLD_NEXT, "pread64");
    return fails(fd, offset, &count) ? -1 : honest(fd, buffer, count, offset);
}

ssize_t pread(int fd, void *buffer, size_t count, off_t offset) { return pread64(fd, buffer, count, offset); }
