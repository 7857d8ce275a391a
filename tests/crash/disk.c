/*
 * Copyright (c) 2026 the pop3d authors
 *
 * Permission to use, copy, modify, and distribute this software for any
 * purpose with or without fee is hereby granted, provided that the above
 * copyright notice and this permission notice appear in all copies.
 *
 * THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES
 * WITH REGARD TO THIS SOFTWARE INCLUDING ALL IMPLIED WARRANTIES OF
 * MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR
 * ANY SPECIAL, DIRECT, INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES
 * WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS, WHETHER IN AN
 * ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF
 * OR IN CONNECTION WITH THE USE OR PERFORMANCE OF THIS SOFTWARE.
 */


/*
 * Linked with --wrap: a disk under the file system, so that a power cut can be
 * tried, and an fsync that fails once.
 *
 * POP3D_DISK	a folder.  NUMBER, an inode's, is what is on the disk of that
 *		file; NUMBER.dirty are the ranges that are not.
 * POP3D_FAIL	the how manieth fsync of this process fails, with EIO: as with
 *		Linux's file systems the pages are clean then, and are never
 *		written, unless they are written to again.
 * POP3D_SAME	is set: writing what is there already makes nothing dirty.
 *		Whoever only syncs again, and believes that, does harm then.
 */

#include <sys/stat.h>
#include <sys/types.h>

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct range {
	off_t	at, size;
};

int	__real_fsync(int);
int	__real_ftruncate64(int, off_t);
ssize_t	__real_pwrite64(int, const void *, size_t, off_t);
int	__wrap_fsync(int);
int	__wrap_ftruncate64(int, off_t);
ssize_t	__wrap_pwrite64(int, const void *, size_t, off_t);

static int
open_beside(int fd, const char *suffix, int flags)
{
	char path[PATH_MAX];
	struct stat st;
	int beside;

	if (fstat(fd, &st) == -1)
		err(1, "fstat");
	snprintf(path, sizeof(path), "%s/%lu%s", getenv("POP3D_DISK"),
	    (unsigned long)st.st_ino, suffix);
	if ((beside = open(path, flags | O_CREAT | O_CLOEXEC, 0600)) == -1)
		err(1, "%s", path);
	return beside;
}

static void
note(int fd, off_t at, off_t size)
{
	struct range range = { at, size };
	int dirty = open_beside(fd, ".dirty", O_WRONLY | O_APPEND);

	if (write(dirty, &range, sizeof(range)) != sizeof(range))
		err(1, "write");
	close(dirty);
}

static bool
is_there(int fd, const char *buf, size_t size, off_t at)
{
	char *now = malloc(size);
	bool same = now != NULL &&
	    pread(fd, now, size, at) == (ssize_t)size &&
	    memcmp(now, buf, size) == 0;

	free(now);
	return same;
}

ssize_t
__wrap_pwrite64(int fd, const void *buf, size_t size, off_t at)
{
	if (getenv("POP3D_DISK") != NULL &&
	    (getenv("POP3D_SAME") == NULL || !is_there(fd, buf, size, at)))
		note(fd, at, (off_t)size);
	return __real_pwrite64(fd, buf, size, at);
}

int
__wrap_ftruncate64(int fd, off_t size)
{
	if (getenv("POP3D_DISK") != NULL)
		note(fd, size, 0);
	return __real_ftruncate64(fd, size);
}

/* What is dirty goes to the disk, and then the size. */
static void
sync_to(int fd, int disk, int dirty)
{
	struct range range;
	struct stat st;
	char byte[65536];
	ssize_t n;

	while (read(dirty, &range, sizeof(range)) == sizeof(range))
		for (; range.size > 0; range.at += n, range.size -= n) {
			n = range.size < (off_t)sizeof(byte) ? range.size :
			    (off_t)sizeof(byte);
			n = pread(fd, byte, (size_t)n, range.at);
			if (n <= 0)
				break;
			if (__real_pwrite64(disk, byte, (size_t)n,
			    range.at) != n)
				err(1, "pwrite");
		}
	if (fstat(fd, &st) == -1 || __real_ftruncate64(disk, st.st_size) == -1)
		err(1, "size");
}

int
__wrap_fsync(int fd)
{
	const char *fail = getenv("POP3D_FAIL");
	static int count;
	int disk, dirty;
	bool fails = fail != NULL && ++count == atoi(fail);

	if (getenv("POP3D_DISK") == NULL)
		return __real_fsync(fd);
	dirty = open_beside(fd, ".dirty", O_RDWR);
	if (!fails) {
		disk = open_beside(fd, "", O_WRONLY);
		sync_to(fd, disk, dirty);
		close(disk);
	}
	if (__real_ftruncate64(dirty, 0) == -1)
		err(1, "ftruncate");
	close(dirty);
	if (fails)
		errno = EIO;
	return fails ? -1 : 0;
}
