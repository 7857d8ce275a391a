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
 * serve program [argument ...]
 *
 * What inetd does, with accounts: listen on a free port of 127.0.0.1, say
 * which on stdout, start the program for each connection with the connection
 * as its stdin, stdout and stderr.  A line "+ pid" says that one has started,
 * "- pid user system rss status" that it ended: CPU time in microseconds and
 * peak memory in KiB, its children's included.  Ends when stdin does.
 */

#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void
child_ended(int signo)
{
	(void)signo;		/* it interrupts ppoll(), that is all */
}

static long
microseconds(struct timeval t)
{
	return t.tv_sec * 1000000L + t.tv_usec;
}

static void
report_children(void)
{
	struct rusage used;
	pid_t pid;
	int status;

	while ((pid = wait4(-1, &status, WNOHANG, &used)) > 0)
		printf("- %d %ld %ld %ld %d\n", (int)pid,
		    microseconds(used.ru_utime), microseconds(used.ru_stime),
		    used.ru_maxrss, status);
}

static int
listener(void)
{
	struct sockaddr_in addr = { .sin_family = AF_INET };
	socklen_t len = sizeof(addr);
	int fd;

	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if ((fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) == -1 ||
	    bind(fd, (struct sockaddr *)&addr, len) == -1 ||
	    listen(fd, 64) == -1 ||
	    getsockname(fd, (struct sockaddr *)&addr, &len) == -1)
		err(1, "listening");
	printf("%d\n", ntohs(addr.sin_port));
	return fd;
}

static void
start(int fd, char **argv, const sigset_t *mask)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	pid_t pid;
	int i;

	if (posix_spawn_file_actions_init(&actions) != 0 ||
	    posix_spawnattr_init(&attr) != 0 ||
	    posix_spawnattr_setsigmask(&attr, mask) != 0 ||
	    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK) != 0)
		errx(1, "out of memory");
	for (i = 0; i < 3; i++)
		if (posix_spawn_file_actions_adddup2(&actions, fd, i) != 0)
			errx(1, "out of memory");
	if ((errno = posix_spawnp(&pid, argv[0], &actions, &attr, argv,
	    environ)) != 0)
		err(1, "%s", argv[0]);
	printf("+ %d\n", (int)pid);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attr);
}

int
main(int argc, char *argv[])
{
	struct sigaction sa = { .sa_handler = child_ended };
	struct pollfd fds[2] = { { .fd = 0, .events = POLLIN } };
	sigset_t blocked, open;
	int fd;

	if (argc < 2)
		errx(64, "usage: serve program [argument ...]");
	setvbuf(stdout, NULL, _IOLBF, 0);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGCHLD);
	sigprocmask(SIG_BLOCK, &blocked, &open);
	sigaction(SIGCHLD, &sa, NULL);
	fds[1].fd = listener();
	fds[1].events = POLLIN;
	for (;;) {
		report_children();
		if (ppoll(fds, 2, NULL, &open) == -1)
			continue;	/* a child ended */
		if (fds[0].revents)
			return 0;
		if (!fds[1].revents)
			continue;
		if ((fd = accept4(fds[1].fd, NULL, NULL, SOCK_CLOEXEC)) == -1)
			err(1, "accept");
		start(fd, argv + 1, &open);
		close(fd);
	}
}
