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
 * Preloaded: every file is on NFS, as far as fstatfs(2) tells.
 */

#include <sys/vfs.h>

#include <dlfcn.h>
#include <stddef.h>

int
fstatfs64(int fd, struct statfs64 *fs)
{
	int (*real)(int, struct statfs64 *);
	int n;

	*(void **)&real = dlsym(RTLD_NEXT, "fstatfs64");
	n = real == NULL ? -1 : real(fd, fs);
	if (n == 0)
		fs->f_type = 0x6969;
	return n;
}
