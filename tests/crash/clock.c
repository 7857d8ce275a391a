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
 * Linked with --wrap=futimens: what is touched now is touched at the number of
 * seconds in the file $POP3D_STUB_CLOCK.
 */

#include <sys/stat.h>

#include <err.h>
#include <stdio.h>
#include <stdlib.h>

int	__real_futimens(int, const struct timespec *);
int	__wrap_futimens(int, const struct timespec *);

int
__wrap_futimens(int fd, const struct timespec *times)
{
	const char *name = getenv("POP3D_STUB_CLOCK");
	struct timespec told[2] = { { 0, 0 }, { 0, 0 } };
	long long seconds;
	FILE *file;

	if (times != NULL || name == NULL)
		return __real_futimens(fd, times);
	if ((file = fopen(name, "r")) == NULL ||
	    fscanf(file, "%lld", &seconds) != 1)
		errx(1, "%s does not tell the time", name);
	fclose(file);
	told[0].tv_sec = told[1].tv_sec = (time_t)seconds;
	return __real_futimens(fd, told);
}
