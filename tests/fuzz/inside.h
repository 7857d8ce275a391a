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
 * pop3d.c with the world around it replaced: the client is a piece of memory,
 * exit() comes back to serve_client(), and what is static can be set as it was
 * before the next session.  In one process that is some fifty times the
 * sessions that a fork for each would give.
 */

#define LIBBSD_OPENBSD_VIS	/* which strnvis(), though none is used */

#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#include <arpa/inet.h>
#include <bsd/stdlib.h>
#include <bsd/string.h>
#include <bsd/unistd.h>
#include <bsd/vis.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <ctype.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "fuzz.h"
#include "pop3d.h"

static struct {
	const char	*say;		/* what the client sends */
	size_t		 left;
	size_t		 most;		/* octets in a read or write; 0: any */
	const char	*address;	/* in the environment */
	char		*heard;		/* what the server sent */
	size_t		 size;
	jmp_buf		 gone;
} client;

static ssize_t
client_says(void *buf, size_t size)
{
	if (size > client.left)
		size = client.left;
	if (client.most != 0 && size > client.most)
		size = client.most;
	memcpy(buf, client.say, size);
	client.say += size;
	client.left -= size;
	return (ssize_t)size;
}

static ssize_t
client_hears(const void *buf, size_t size)
{
	if (client.most != 0 && size > client.most)
		size = client.most;
	client.heard = realloc(client.heard, client.size + size + 1);
	CHECK(client.heard != NULL);
	memcpy(client.heard + client.size, buf, size);
	client.heard[client.size + size] = '\0';	/* for sscanf */
	client.size += size;
	return (ssize_t)size;
}

static bool password_is_left(void);

/* A log line is one line of plain text, and no password is in it. */
static void
write_log(const char *format, va_list ap)
{
	char text[2000];
	int n;

	n = vsnprintf(text, sizeof(text), format, ap);
	CHECK(n < 1000);
	for (int i = 0; i < n; i++)
		CHECK(text[i] >= ' ' && text[i] <= '~');
	CHECK(strncmp(text, "login", 5) != 0 || !password_is_left());
}

#define main(...)		pop3d_main(__VA_ARGS__)
#define exit(code)		longjmp(client.gone, 1)
#define read(fd, buf, n)	client_says(buf, n)
#define write(fd, buf, n)	client_hears(buf, n)
#define send(fd, buf, n, flags)	client_hears(buf, n)
#define ppoll(fds, n, t, mask)	((void)*(t), (fds)->revents = (fds)->events, 1)
#define sigpending(set)		((void)(set), -1)
#define getenv(name)		client.address
#define getpeername(fd, a, n)	((void)*(n), -1)
#define setsockopt(a, b, c, d, e) ((void)*(d), (void)0)
#define isatty(fd)		0
#define alarm(seconds)		((void)(seconds))
#define signal(sig, how)	((void)(how))
#define setrlimit(what, limit)	((void)*(limit))
#define shutdown(fd, how)	(-1)
#define open(path, flags)	(STDERR_FILENO + 1)
#define dup2(fd, to)		((void)0)
#define closefrom(fd)		((void)0)
#define signalfd(fd, set, flags) ((void)(fd), (void)(set), 1000)
#define umask(mask)		((void)0)
#define closelog()		((void)0)
#define openlog(...)		((void)0)
#define vsyslog(level, format, ap) ((void)(level), write_log(format, ap))
#define setproctitle_init(...)	((void)argv, (void)envp)
#define setproctitle(...)	((void)0)

int pop3d_main(int, char **, char **);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wreturn-type"	/* main() may end so */
#include "pop3d.c"
#pragma GCC diagnostic pop

#undef main
#undef exit
#undef read
#undef write
#undef open
#undef shutdown
#undef dup2
#undef send
#undef ppoll
#undef getenv
#undef alarm
#undef signal

static bool
password_is_left(void)
{
	return memmem(in.data, in.next, "secret", 6) != NULL ||
	    memmem(in.data, in.next, "c2VjcmV0", 8) != NULL ||
	    memmem(in.data, in.next, "AHNlY3JldA", 10) != NULL;
}

static int
count(char **argv)
{
	int argc = 0;

	while (argv[argc] != NULL)
		argc++;
	return argc;
}

/* A whole session; what was heard is in client.heard. */
static void
serve_client(char **argv, const char *say, size_t size)
{
	static __typeof__(option) new_option;
	static __typeof__(session) new_session;
	static bool again;

	if (!again) {
		new_option = option;
		new_session = session;
		again = true;
	}
	maildrop_close(&drop);
	free(client.heard);
	client.heard = malloc(1);
	client.size = 0;
	client.say = say;
	client.left = size;
	option = new_option;
	session = new_session;
	memset(&in, 0, sizeof(in));
	memset(&out, 0, sizeof(out));
	optind = 1;
	if (setjmp(client.gone) == 0)
		pop3d_main(count(argv), argv, NULL);
}
