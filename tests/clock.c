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
 * Linked with --wrap=clock_gettime: the time of day is the number of seconds
 * in the file $POP3D_STUB_CLOCK.  If that is a FIFO, asking for the time waits
 * until somebody tells it.
 */

#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int	__real_clock_gettime(clockid_t, struct timespec *);
int	__wrap_clock_gettime(clockid_t, struct timespec *);

int
__wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
	const char *name = getenv("POP3D_STUB_CLOCK");
	long long seconds;
	FILE *file;

	if (clock != CLOCK_REALTIME || name == NULL)
		return __real_clock_gettime(clock, now);
	if ((file = fopen(name, "r")) == NULL ||
	    fscanf(file, "%lld", &seconds) != 1)
		errx(1, "%s does not tell the time", name);
	fclose(file);
	now->tv_sec = (time_t)seconds;
	now->tv_nsec = 0;
	return 0;
}
