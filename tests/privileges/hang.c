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
 * Linked with --wrap=pread64,--wrap=read, for mailboxes on a file system that
 * hangs.  While there is a file $POP3D_STUB_HANG each read of the mailbox takes
 * an octet from its end; one that finds none left removes the file, and never
 * returns.  While there is a file $POP3D_STUB_TERM what comes from the client
 * comes with SIGTERM, which so is pending when the command is looked at.
 */

#include <sys/stat.h>

#include <err.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

ssize_t	__real_pread64(int, void *, size_t, off_t);
ssize_t	__wrap_pread64(int, void *, size_t, off_t);
ssize_t	__real_read(int, void *, size_t);
ssize_t	__wrap_read(int, void *, size_t);

ssize_t
__wrap_pread64(int fd, void *buf, size_t size, off_t at)
{
	const char *name = getenv("POP3D_STUB_HANG");
	int error = errno;
	struct stat st;

	if (name != NULL && stat(name, &st) == 0) {
		if (st.st_size == 0) {
			unlink(name);
			for (;;)
				pause();
		}
		if (truncate(name, st.st_size - 1) == -1)
			err(1, "%s", name);
	}
	errno = error;
	return __real_pread64(fd, buf, size, at);
}

ssize_t
__wrap_read(int fd, void *buf, size_t size)
{
	const char *name = getenv("POP3D_STUB_TERM");
	ssize_t n = __real_read(fd, buf, size);

	if (name != NULL && fd == STDIN_FILENO && access(name, F_OK) == 0)
		raise(SIGTERM);
	return n;
}
