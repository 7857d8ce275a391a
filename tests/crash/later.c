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
 * Linked with --wrap=futimens: the file system's clock seems ten seconds ahead,
 * so that a mailbox which was written just now is old enough for an index.
 */

#include <sys/stat.h>

#include <time.h>

int	__real_futimens(int, const struct timespec *);
int	__wrap_futimens(int, const struct timespec *);

int
__wrap_futimens(int fd, const struct timespec *times)
{
	struct timespec later[2] = { { 0, 0 }, { 0, 0 } };

	if (times != NULL)
		return __real_futimens(fd, times);
	later[0].tv_sec = later[1].tv_sec = time(NULL) + 10;
	return __real_futimens(fd, later);
}
