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
 * For /etc/ld.so.preload, as PAM may leave it to unix_chkpwd(8), which has an
 * environment of its own: yescrypt, the hash of Debian's passwords, maps 16 MiB
 * or, where it shall cost more, more for each one that it makes, and nothing
 * else does so before the login.  Each adds its size to the file /etc/hashes.
 */

#undef _FILE_OFFSET_BITS		/* it makes mmap() another's name */

#include <sys/mman.h>

#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define OF_A_HASH	((size_t)16 << 20)

void *
mmap(void *where, size_t size, int protection, int flags, int fd, off_t offset)
{
	static void *(*real)(void *, size_t, int, int, int, off_t);
	int file;

	if (real == NULL)
		*(void **)&real = dlsym(RTLD_NEXT, "mmap");
	if (size >= OF_A_HASH) {
		file = open("/etc/hashes", O_WRONLY | O_APPEND);
		if (file == -1 || dprintf(file, "%zu MiB\n", size >> 20) < 0)
			abort();
		close(file);
	}
	return real(where, size, protection, flags, fd, offset);
}
