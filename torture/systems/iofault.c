/* A disk that fails: loaded before all else into a worker, it has some of its calls on files fail.
 *
 * IOFAULT names a file with one line, "CALL ERRNO PERCENT FOLDER", such as "fsync 5 100 /data": so many of the calls on
 * files below FOLDER, which has no blanks, fail with that number. CALL is read, write or fsync. While the file is not
 * there nothing fails. RocksDB's own log (LOG) is spared: it ignores what becomes of that.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(result, name, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) real = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name);

static ssize_t real_read(int fd, void *into, size_t size) {
    REAL(ssize_t, read, int, void *, size_t)
    return real(fd, into, size);
}

static int fails(const char *call, int fd) {
    const char *order = getenv("IOFAULT");
    int kept = errno, number = 0, percent = 0;
    char line[1024] = {0}, wanted[16] = {0}, under[1000] = {0}, link[64], path[4096];
    if (!order) return 0;
    int file = open(order, O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
        ssize_t size = real_read(file, line, sizeof line - 1);
        close(file);
        if (size > 0
            && sscanf(line, "%15s %d %d %999s", wanted, &number, &percent, under) == 4
            && !strcmp(wanted, call)) {
            snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
            ssize_t length = readlink(link, path, sizeof path - 1);
            path[length > 0 ? length : 0] = 0;
            const char *name = strrchr(path, '/');
            if (!strncmp(path, under, strlen(under)) && name && strcmp(name, "/LOG") && rand() % 100 < percent) {
                errno = number;
                return 1;
            }
        }
    }
    errno = kept;
    return 0;
}

ssize_t write(int fd, const void *from, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t)
    return fails("write", fd) ? -1 : real(fd, from, size);
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, writev, int, const struct iovec *, int)
    return fails("write", fd) ? -1 : real(fd, parts, count);
}
ssize_t pwrite(int fd, const void *from, size_t size, off_t at) {
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t)
    return fails("write", fd) ? -1 : real(fd, from, size, at);
}
ssize_t pwrite64(int fd, const void *from, size_t size, off64_t at) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t)
    return fails("write", fd) ? -1 : real(fd, from, size, at);
}
ssize_t pread(int fd, void *into, size_t size, off_t at) {
    REAL(ssize_t, pread, int, void *, size_t, off_t)
    return fails("read", fd) ? -1 : real(fd, into, size, at);
}
ssize_t pread64(int fd, void *into, size_t size, off64_t at) {
    REAL(ssize_t, pread64, int, void *, size_t, off64_t)
    return fails("read", fd) ? -1 : real(fd, into, size, at);
}
int fsync(int fd) {
    REAL(int, fsync, int)
    return fails("fsync", fd) ? -1 : real(fd);
}
int fdatasync(int fd) {
    REAL(int, fdatasync, int)
    return fails("fsync", fd) ? -1 : real(fd);
}
int ftruncate(int fd, off_t size) {
    REAL(int, ftruncate, int, off_t)
    return fails("write", fd) ? -1 : real(fd, size);
}
int fallocate(int fd, int mode, off_t at, off_t size) {
    REAL(int, fallocate, int, int, off_t, off_t)
    return fails("write", fd) ? -1 : real(fd, mode, at, size);
}
