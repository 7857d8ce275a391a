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


#include <sys/stat.h>

#include <err.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fuzz.h"

unsigned int fuzz_area = 64 << 20;

/* A file that was just written has settled: see SETTLED_SECONDS. */
int __real_futimens(int, const struct timespec *);
int __wrap_futimens(int, const struct timespec *);

int
__wrap_futimens(int fd, const struct timespec *times)
{
	struct timespec later[2] = { { time(NULL) + 60, 0 },
	    { time(NULL) + 60, 0 } };

	return __real_futimens(fd, times == NULL ? later : times);
}

/* libFuzzer has a clock of its own, for what hangs. */
unsigned int __wrap_alarm(unsigned int);

unsigned int
__wrap_alarm(unsigned int n)
{
	return n;
}

static char folder[64];

/* No signal is blocked, or libFuzzer's clock could not end what hangs. */
int __wrap_sigprocmask(int, const sigset_t *, sigset_t *);

int
__wrap_sigprocmask(int how, const sigset_t *set, sigset_t *old)
{
	(void)how;
	(void)set;
	if (old != NULL)
		sigemptyset(old);
	return 0;
}

_Noreturn void
finding(const char *file, int line, const char *what)
{
	fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
	abort();
}

_Noreturn void
different(const char *file, int line, const char *what, intmax_t got,
    intmax_t want)
{
	fprintf(stderr, "%s:%d: %s is %jd, not %jd\n", file, line, what, got,
	    want);
	abort();
}

static void
remove_folder(void)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf %s", folder);
	if (system(command) != 0)
		warnx("%s is left", folder);
}

const char *
scratch(const char *name)
{
	static char paths[8][128];
	static int next;
	char *path = paths[next++ % 8];

	if (folder[0] == '\0') {
		strcpy(folder, "/dev/shm/pop3d-fuzz-XXXXXX");
		if (mkdtemp(folder) == NULL)
			err(1, "%s", folder);
		atexit(remove_folder);
	}
	snprintf(path, sizeof(paths[0]), "%s/%s", folder, name);
	return path;
}

static void
write_file(const char *path, const void *data, size_t size, int flags)
{
	static struct timespec when[2] = { { 1000000000, 0 },
	    { 1000000000, 0 } };
	int fd = open(path, O_WRONLY | O_CREAT | flags, 0600);

	when[1].tv_sec++;
	if (fd == -1 || write(fd, data, size) != (ssize_t)size ||
	    futimens(fd, when) == -1)
		err(1, "%s", path);
	close(fd);
}

void
put_file(const char *path, const void *data, size_t size)
{
	write_file(path, data, size, O_TRUNC);
}

void
append_file(const char *path, const void *data, size_t size)
{
	write_file(path, data, size, O_APPEND);
}

char *
get_file(const char *path, size_t *size)
{
	struct stat st;
	char *data;
	int fd = open(path, O_RDONLY);

	if (fd == -1 || fstat(fd, &st) == -1)
		err(1, "%s", path);
	*size = (size_t)st.st_size;
	if ((data = malloc(*size + 1)) == NULL ||
	    read(fd, data, *size) != (ssize_t)*size)
		err(1, "%s", path);
	data[*size] = '\0';
	close(fd);
	return data;
}

uint8_t
take_octet(struct input *in)
{
	if (in->left == 0)
		return 0;
	in->left--;
	return *in->next++;
}

uint32_t
take_number(struct input *in, uint32_t limit)
{
	uint32_t n = take_octet(in);

	n = n << 8 | take_octet(in);
	return n % limit;
}
